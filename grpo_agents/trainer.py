"""The loop: sample, learn, sync, evaluate, save. Read :meth:`Trainer.train` from top to bottom.

What moves between two steps, and makes a run that was killed go on as if nothing had happened, is in ``run_state.py``.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import torch
from transformers import PreTrainedModel

from grpo_agents import store
from grpo_agents.alarms import Alarms, LearningStopped
from grpo_agents.background import in_background
from grpo_agents.build import Parts, build, make_source
from grpo_agents.config import Config, load_config
from grpo_agents.engines import EngineFailure, mix
from grpo_agents.engines.weights import Weights
from grpo_agents.evaluation.columns import task_key
from grpo_agents.learner import ranks
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.model import load_model
from grpo_agents.loggers import Loggers
from grpo_agents.periodic_evaluation import PeriodicEvaluation
from grpo_agents.run_folder import RunFolder
from grpo_agents.run_state import RunState
from grpo_agents.sources import WRITTEN, Batch, Figures, FrozenSource
from grpo_agents.stopping import Preempted, Stop, stopping
from grpo_agents.summary_writer import SummaryWriter
from grpo_agents.sync_check import SyncCheck
from grpo_agents.terminal.display import Display, problems_of
from grpo_agents.trajectory import Group, Trajectory
from grpo_agents.writing import naming


class Trainer:
    """A run.

    Args:
        config: What it is.
        resume: Go on from the run folder's last good checkpoint.
        overwrite: Start anew where the folder holds a run.

    Raises:
        FileExistsError: The folder holds a run and neither was asked for, or a config.toml that is no run's.
        ImportError: ``train.log`` names what is not installed.
        ValueError: Something of the config does not exist or does not fit, or the run to go on with is longer already.
    """

    def __init__(self, config: Config, *, resume: bool = False, overwrite: bool = False):
        if config.engine.backend == "hosted":
            raise ValueError(
                "engine.backend 'hosted' gives no token ids to learn from: evaluate with it "
                "(`grpo-agents rollout`), and train with 'vllm', 'server' or 'transformers'"
            )
        self.config = config
        self.folder = RunFolder(config.run)
        self.method = config.chosen_method
        self.kind = config.source_kind
        self.display = Display(config.train.steps)
        self.loggers = Loggers(config.train.log, self.display.say)
        if not resume:
            self.folder.check(overwrite=overwrite)  # before anything is loaded
        torch.manual_seed(config.seed)
        self.parts: Parts = build(config, learning=True, say=self.display.say)
        try:
            self._load(resume=resume, overwrite=overwrite)
        except BaseException:
            self.parts.close()
            raise

    def _load(self, *, resume: bool, overwrite: bool) -> None:
        """Makes the learner, and what goes on from where a run was."""
        config = self.config
        if self.parts.cluster is not None:
            self.learner = self.parts.cluster.learner()
        else:
            assert self.parts.model is not None
            self.learner = make_learner(config, self.parts.model)
        if self.learner.why_padded:
            self.display.say(
                f"{self.learner.why_padded}: prefixes that rollouts share are computed again for each of them. What is "
                "learned is the same; it takes longer"
            )
        self.sync_check = SyncCheck(
            self.parts.engine,
            self.learner,
            self.parts.chat,
            config.engine.check,
            requests=config.cluster.workers,
            seconds=config.rollout.episode_timeout,
            seed=config.seed,
        )
        self.source = make_source(self.parts, self.method, self.folder.trajectories, self.display.episodes)
        self.evaluation = (
            None if config.eval.every is None else PeriodicEvaluation(self.parts, self.folder, self.display)
        )
        self._evaluated = set() if self.evaluation is None else self.evaluation.task_keys
        self.alarms = Alarms(config.alarms, self.display.say, samples=self.kind == "policy")
        self.state = RunState(
            self.parts, self.learner, self.source, self.alarms, self.folder.checkpoints, self.display.say
        )
        self._ahead: Batch | None = None
        self.stop: Stop | None = None
        self.start = 0
        if resume:
            self.start, self._ahead = self.state.restore()
        self.done = self.start
        self.weights = Weights(self.learner.weights(), self.start)
        if resume:
            self.folder.rewind(self.start)
        else:
            self.folder.create(config, overwrite=overwrite)  # once nothing more can fail: a mended config begins anew
        self.loggers.start(config.model_dump(mode="json"), self.folder.path, resume=resume)

    def train(self) -> Path:
        """Runs to the last step, or to an interruption; gives the run folder.

        Raises:
            KeyboardInterrupt: Ctrl-C, after the step under way is finished and saved.
            LearningStopped: Too many steps in a row went wrong, or too many threads hang; after a checkpoint.
            ValueError: Every episode of the first batch lacks a reward, so that there is nothing to learn from; or the
                engine samples from another policy.
            EngineFailure: The engine cannot go on.
            NotWritten: The disk is full, the run folder has become read-only …; says how to go on.
        """
        with closing(self.parts), closing(self.learner.ranks), self.folder.resumable():
            self._run()
            with naming(self.folder.model):
                self.learner.save_policy(self.folder.model)
                self.parts.chat.tokenizer.save_pretrained(self.folder.model)
        if (reward_model := self.parts.moving_reward_model) is not None:
            with self.folder.resumable(), naming(self.folder.reward_model):
                reward_model.save_pretrained(self.folder.reward_model)
        return self.folder.path

    def _run(self) -> None:
        """The loop."""
        steps = self.config.train.steps
        with (
            closing(self.loggers),
            self.display,
            SummaryWriter(self.folder.tensorboard, purge_step=self.start) as board,
            stopping() as stop,
        ):
            self.stop = stop
            self.display.begin(self.start, self.folder.read_metrics())
            if isinstance(self.source, FrozenSource) and self.start == 0:
                with self._saved_if_preempted(0, stop):
                    self._fill(self.source, stop)
            for step in range(self.start, steps):
                with self._saved_if_preempted(step, stop):
                    self._sync_if_due(step)
                    self._probe_if_due(step, board)
                    self._evaluate_if_due(step, board)
                    began = time.perf_counter()
                    groups, figures = self._ahead or self.source.batch(step)
                self._ahead = None
                if self.config.train.store and self.kind == "policy":
                    file = self.folder.trajectory_file("train", step)
                    store.write(file, groups, step=step, phase="train", scoring=self.parts.scoring)
                failed = self._check_batch(step, groups)
                with self._engine_meanwhile(step + 1, stop):
                    figures |= self._learn(groups, step) | self._teach_reward_model(groups, step)
                figures["seconds/step"] = time.perf_counter() - began
                figures |= self.alarms.look(step, figures, failed=failed, not_finite=self.learner.counts["not_finite"])
                self._log(step, figures, board)
                self.display.step(step, figures)
                self.done = done = step + 1
                if done % self.config.train.save_every == 0 or done == steps or stop() or self.alarms.over:
                    self.state.save(done, self._ahead)
                if self.alarms.over:
                    raise LearningStopped(
                        f"stopped after step {done}, which is saved: {self.alarms.over}. Mend it (the lines above say "
                        f"what to try), then go on with `grpo-agents train --resume {self.folder.path}`"
                    )
                if stop():
                    raise self.stopped(f"after step {done}", stop)
            with self._saved_if_preempted(steps, stop):
                self._sync_if_due(steps)
                self._probe_if_due(steps, board)
                self._evaluate_if_due(steps, board)

    @contextmanager
    def _saved_if_preempted(self, done: int, stop: Stop) -> Iterator[None]:
        """What SIGTERM may end in its middle: a resume does it again, as if it had not begun."""
        counts = self.state.counts
        try:
            with stop.repeatable():
                yield
        except Preempted:
            if done > self.start and not (self.folder.checkpoints / f"step-{done:06d}").exists():
                self.state.counts = counts
                self.state.save(done, self._ahead)
            raise self.stopped(f"after step {done}", stop) from None

    def stopped(self, when: str, stop: Stop) -> KeyboardInterrupt:
        """What says so, and how to go on."""
        kind = Preempted if stop.urgent else KeyboardInterrupt
        return kind(f"stopped {when}; go on with `grpo-agents train --resume {self.folder.path}`")

    def _fill(self, source: FrozenSource, stop: Stop) -> None:
        """Has the first weights sample what a frozen source lacks."""
        if not source.lacking:
            return
        self.parts.engine.update_weights(self.weights)
        self.sync_check.probe(0)
        for number in source.fill():
            self.display.say(f"batch {number + 1} of {len(source.files)} sampled from the first weights")
            if stop():
                raise self.stopped("before learning began", stop)

    @contextmanager
    def _engine_meanwhile(self, step: int, stop: Stop) -> Iterator[None]:
        """What the engine does while the learner works: it sleeps, or samples the batch of the next step.

        So its weights are exactly one step old, whatever takes how long; they change only when it is done. SIGTERM does
        not wait for it: a resume samples it anew.
        """
        if not self.config.samples:
            yield
        elif not self.config.train.overlap:
            self.parts.engine.sleep()
            yield
        elif step == self.config.train.steps:
            yield
        else:
            counts = self.state.counts
            ahead = in_background(lambda: self.source.batch(step))
            yield
            try:
                with nullcontext() if ahead.done() else stop.repeatable():
                    self._ahead = ahead.result()
            except Preempted:
                self.state.counts = counts

    def _learn(self, groups: list[Group], step: int) -> Figures:
        """One batch's updates."""
        began = time.perf_counter()
        batch = make_batch([trajectory for group in groups for trajectory in group.trajectories])
        progress, seed = step / self.config.train.steps, mix(self.config.seed, 3, step)  # the same after a resume
        with self.weights.moving(to=step + 1):
            figures = self.learner.learn(batch, version=step, progress=progress, seed=seed)
            self.weights.named = self.learner.weights()
        return figures | {"seconds/learn": time.perf_counter() - began}

    def _teach_reward_model(self, groups: list[Group], step: int) -> Figures:
        """Notes what the batch says about better and worse, and every so often has the reward model learn from it."""
        reward_model = self.parts.moving_reward_model
        if reward_model is None:
            return {}
        figures = reward_model.observe(groups, self.parts.vector)
        every = reward_model.config.retrain_every
        return figures | (reward_model.learn() if every is not None and (step + 1) % every == 0 else {})

    def _sync_if_due(self, step: int) -> None:
        """Hands the weights to the engine, which wakes, where it is about to sample; nothing is sampled meanwhile."""
        if self.kind == "policy" or self.config.evaluates(step):
            self.parts.engine.update_weights(self.weights)

    def _probe_if_due(self, step: int, board: SummaryWriter) -> None:
        """Stops a run whose engine samples from another policy: see :class:`~grpo_agents.sync_check.SyncCheck`."""
        samples = self.kind == "policy"  # others sample for the evaluation alone
        if self.config.evaluates(step) or (samples and step % self.config.engine.check.every == 0):
            self._log(step, self.sync_check.probe(step), board)
        elif samples and (step == self.start or self.parts.unprobed):  # an undisturbed run has no such figures
            self.sync_check.probe(step)

    def _evaluate_if_due(self, step: int, board: SummaryWriter) -> None:
        """Plays the tasks of the evaluation with the weights that the engine was given last."""
        if self.evaluation is not None and self.config.evaluates(step):
            self._log(step, self.evaluation.run(step), board)

    def _check_batch(self, step: int, groups: list[Group]) -> str:
        """Says what is wrong with a batch, and refuses a first one of which nothing can be learned.

        Returns:
            Why every episode of it lacks a reward, or nothing.
        """
        failed = ""
        everyone = [trajectory for group in groups for trajectory in group.trajectories]
        self.display.problems(f"step {step + 1}", everyone)
        learned = set(self.parts.vector.names)
        if all(trajectory.advantage is None and learned & trajectory.missing.keys() for trajectory in everyone):
            problems = Counter(problem for trajectory in everyone for problem in problems_of(trajectory))
            failed = problems.most_common(1)[0][0]
        if failed and step == 0:  # not even once did it work: later on it may pass
            raise ValueError(
                f"step {step + 1} has nothing to learn from: every episode lacks a reward, most for this:\n"
                f"{failed}\nMend it (`grpo-agents check {self.config.env.id}` helps), then go "
                f"on with `grpo-agents train --resume {self.folder.path}`"
            )
        if self.kind == "policy":
            self._check_versions(step, everyone)
        if known := sum(task_key(self.config.env.id, group.task) in self._evaluated for group in groups):
            mixed = f"step {step + 1}: {known} of {len(groups)} tasks are among those of the evaluation"
            self.display.say(
                f"{mixed}: their gold answers are hidden from training (test-time training)"
                if self.parts.gold
                else f"{mixed}. To evaluate on tasks that are held out, set eval.source or eval.env_options"
            )
            self._evaluated = set()  # once is enough
        return failed

    def _check_versions(self, step: int, trajectories: list[Trajectory]) -> None:
        """Refuses what older weights sampled than ``train.overlap`` and ``cluster.max_staleness`` allow."""
        right = range(max(0, step - self.config.max_staleness), step + 1)
        for trajectory in trajectories:
            for turn in trajectory.steps:
                if turn.version not in right:
                    raise ValueError(
                        f"step {step + 1}: version {turn.version} of the weights sampled a turn of trajectory "
                        f"{trajectory.id}, not {' or '.join(map(str, right))}. The engine keeps old weights, or "
                        "miscounts. Checkpoints are intact: mend it, then go on with "
                        f"`grpo-agents train --resume {self.folder.path}`"
                    )

    def _log(self, step: int, figures: Figures, board: SummaryWriter) -> None:
        """Keeps the figures of a step, for people and for programs."""
        self.folder.log({"step": step, **figures})
        self.loggers.log(step, figures)
        for name, value in figures.items():
            board.add_scalar(name, value, step)


def make_learner(config: Config, model: PreTrainedModel) -> Learner:
    """The learner of a run."""
    written = config.source_kind in WRITTEN
    return Learner(
        model,
        config.learner,
        config.chosen_method,
        source=config.source_kind,
        steps=config.train.steps * config.learner.updates,
        temperature=1.0 if written else config.rollout.temperature,
        dtype=config.model.dtype,
        largest_mismatch=config.engine.check.mismatch,
        largest_kl_old=config.alarms.kl_old,
    )


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Trains as the config says; gives the run folder. See :class:`Trainer`.

    Of the processes that torchrun started the first trains; the others make the calls of its learner with it.
    """
    ranks.begin()
    if ranks.first():
        return _train(config, resume=resume, overwrite=overwrite)
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)  # the first one finishes what it does and sends the others home
    torch.manual_seed(config.seed)
    ranks.follow(make_learner(config, load_model(config.model)))
    return RunFolder(config.run).path


def _train(config: Config, *, resume: bool, overwrite: bool) -> Path:
    """Trains; goes on from the last checkpoint where a process of the learner was lost."""
    lost = furthest = 0
    while True:
        trainer = None  # the one before is gone when the next is made
        try:
            trainer = Trainer(config, resume=resume, overwrite=overwrite)
            return trainer.train()
        except ranks.RankLost as error:
            if trainer is not None and trainer.stop is not None and trainer.stop():
                raise trainer.stopped("by its last checkpoint", trainer.stop) from error
            done = 0 if trainer is None else trainer.done
            lost, furthest = (1 if done > furthest else lost + 1), max(furthest, done)
            if lost > config.cluster.restarts:
                raise EngineFailure(
                    f"{error}, {lost} times without a new step between (cluster.restarts). Checkpoints are intact: go "
                    f"on with `grpo-agents train --resume {config.run}`"
                ) from error
            if trainer is None:
                Display(config.train.steps).say(f"{error} while it was loading; it is loaded again")
            else:
                trainer.display.say(f"{error} after step {done}; the learner goes on from the last checkpoint")
                resume = True


def resume(folder: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Goes on with a run that was stopped or killed; gives the run folder.

    Args:
        folder: The run's.
        overrides: Where it computes from now on, as ``cluster.address=…``.

    Raises:
        FileNotFoundError: The folder holds no run.
    """
    config = load_config(RunFolder(folder).config, overrides)
    return train(config.model_copy(update={"run": str(folder)}), resume=True)
