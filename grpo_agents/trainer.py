"""The loop: sample, learn, sync, evaluate, save. Read :meth:`Trainer.train` from top to bottom.

Nothing but the weights, the optimiser, the counts of a curriculum and, with ``train.overlap``, the batch that was
sampled ahead is state: tasks, preferences and draws follow from the seed and the step, so a run that was killed goes on
from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

from grpo_agents import checkpoint, store
from grpo_agents.advantage import check_needed, utility
from grpo_agents.background import in_background
from grpo_agents.build import Parts, build
from grpo_agents.config import Config, load_config
from grpo_agents.curriculum import make_curriculum
from grpo_agents.display import Display, problems_of
from grpo_agents.engines import mix
from grpo_agents.engines.weights import Weights
from grpo_agents.evaluation import mean_interval, task_key
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.model import restore_policy, save_policy
from grpo_agents.learner.reward_model import RewardModel
from grpo_agents.rollout import Rollout, apply_truncation
from grpo_agents.run_folder import RunFolder
from grpo_agents.sources import (
    DemonstrationSource,
    Figures,
    FrozenSource,
    PairSource,
    PolicySource,
    Source,
    StoredSource,
    Weighing,
    pick,
)
from grpo_agents.sync_check import SyncCheck
from grpo_agents.tasks import load_tasks
from grpo_agents.trajectory import Group, Task, Trajectory

OPTIMIZER_FILE = "optimizer.safetensors"
AHEAD_FILE = "ahead.parquet"
CURRICULUM_FILE = "curriculum.npy"
CRITIC_FILE = "critic.safetensors"
REFERENCE_FILE = "reference.safetensors"

WRITTEN = ("demonstrations", "pairs")
"""Sources that nobody sampled."""


class Trainer:
    """A run.

    Args:
        config: What it is.
        resume: Go on from the run folder's last good checkpoint.
        overwrite: Start anew where the folder holds a run.

    Raises:
        FileExistsError: The folder holds a run and neither was asked for, or a config.toml that is no run's.
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
        if not resume:
            self.folder.check(overwrite=overwrite)  # before anything is loaded
        torch.manual_seed(config.seed)
        self.parts: Parts = build(config, learning=True, say=self.display.say)
        assert self.parts.model is not None
        self.model = self.parts.model
        self.learner = Learner(
            self.model,
            config.learner,
            self.method,
            source=self.kind,
            steps=config.train.steps * config.learner.updates,
            temperature=1.0 if self.kind in WRITTEN else config.rollout.temperature,
            dtype=config.model.dtype,
            largest_mismatch=config.engine.check.mismatch,
        )
        self.sync_check = SyncCheck(
            self.parts.engine,
            self.learner,
            self.parts.chat,
            config.engine.check,
            seconds=config.rollout.episode_timeout,
            seed=config.seed,
        )
        self.source = self._make_source()
        self.evaluation = self._make_evaluation()
        self._ahead: tuple[list[Group], Figures] | None = None
        self._evaluated = {task_key(config.env.id, task) for task in self.evaluation[1]} if self.evaluation else set()
        if resume:
            self.start = self._restore()
            self.folder.rewind(self.start)
        else:
            self.start = 0
            self.folder.create(config, overwrite=overwrite)  # once nothing more can fail: a mended config begins anew
        self.weights = Weights(dict(self.model.named_parameters()), self.start)

    def train(self) -> Path:
        """Runs to the last step, or to an interruption; gives the run folder.

        Raises:
            KeyboardInterrupt: Ctrl-C, after the step under way is finished and saved.
            ValueError: Every episode of a batch lacks a reward, so that there is nothing to learn from; or the engine
                samples from another policy.
            EngineFailure: The engine cannot go on.
        """
        steps = self.config.train.steps
        with (
            closing(self.parts.engine),
            self.display,
            SummaryWriter(str(self.folder.tensorboard), purge_step=self.start) as board,
            _politely() as stop,
        ):
            if isinstance(self.source, FrozenSource) and self.start == 0:
                self._fill(self.source, stop)
            for step in range(self.start, steps):
                self._sync_if_due(step)
                self._probe_if_due(step, board)
                self._evaluate_if_due(step, board)
                began = time.perf_counter()
                groups, figures = self._batch(step)
                if self.config.train.store and self.kind == "policy":
                    self._store("train", step, groups)
                self._check_batch(step, groups)
                with self._engine_meanwhile(step + 1):
                    figures |= self._learn(groups, step) | self._teach_reward_model(groups, step)
                figures["seconds/step"] = time.perf_counter() - began
                self._log(step, figures, board)
                self.display.step(step, figures)
                done = step + 1
                if done % self.config.train.save_every == 0 or done == steps or stop():
                    self._save(done)
                if stop():
                    raise KeyboardInterrupt(
                        f"stopped after step {done}; go on with `grpo-agents train --resume {self.folder.path}`"
                    )
            self._sync_if_due(steps)
            self._probe_if_due(steps, board)
            self._evaluate_if_due(steps, board)
        save_policy(self.model, self.parts.chat.tokenizer, self.folder.model)
        if (reward_model := self._moving_reward_model) is not None:
            reward_model.save_pretrained(self.folder.reward_model)
        return self.folder.path

    def _fill(self, source: FrozenSource, stop: Callable[[], bool]) -> None:
        """Has the first weights sample what a frozen source lacks."""
        if not source.lacking:
            return
        self.parts.engine.update_weights(self.weights)
        self.sync_check.probe(0)
        for number in source.fill():
            self.display.say(f"batch {number + 1} of {len(source.files)} sampled from the first weights")
            if stop():
                raise KeyboardInterrupt(
                    f"stopped before learning began; go on with `grpo-agents train --resume {self.folder.path}`"
                )

    def _batch(self, step: int) -> tuple[list[Group], Figures]:
        """The batch of a step: sampled ahead, or now."""
        ahead, self._ahead = self._ahead, None
        return ahead or self.source.batch(step)

    @contextmanager
    def _engine_meanwhile(self, step: int) -> Iterator[None]:
        """What the engine does while the learner works: it sleeps, or samples the batch of the next step.

        So its weights are exactly one step old, whatever takes how long; they change only when it is done.
        """
        if not self.config.samples:
            yield
        elif not self.config.train.overlap:
            self.parts.engine.sleep()
            yield
        elif step == self.config.train.steps:
            yield
        else:
            ahead = in_background(lambda: self.source.batch(step))
            yield
            self._ahead = ahead.result()

    def _learn(self, groups: list[Group], step: int) -> Figures:
        """One batch's updates."""
        began = time.perf_counter()
        batch = make_batch([trajectory for group in groups for trajectory in group.trajectories])
        torch.manual_seed(mix(self.config.seed, 3, step))  # dropout, where there is any: the same after a resume
        with self.weights.moving(to=step + 1):
            figures = self.learner.learn(batch, version=step, progress=step / self.config.train.steps)
        return figures | {"seconds/learn": time.perf_counter() - began}

    def _teach_reward_model(self, groups: list[Group], step: int) -> Figures:
        """Notes what the batch says about better and worse, and every so often has the reward model learn from it."""
        reward_model = self._moving_reward_model
        if reward_model is None:
            return {}
        reward_model.observe(groups)
        every = reward_model.config.retrain_every
        return reward_model.learn() if every is not None and (step + 1) % every == 0 else {}

    @property
    def _moving_reward_model(self) -> RewardModel | None:
        """The reward model, where it learns while the policy does."""
        reward_model = self.parts.reward_model
        return reward_model if reward_model is not None and reward_model.config.retrain_every else None

    def _sync_if_due(self, step: int) -> None:
        """Hands the weights to the engine, which wakes, where it is about to sample; nothing is sampled meanwhile."""
        if self.kind == "policy" or self._evaluates(step):
            self.parts.engine.update_weights(self.weights)

    def _probe_if_due(self, step: int, board: SummaryWriter) -> None:
        """Stops a run whose engine samples from another policy: see :class:`~grpo_agents.sync_check.SyncCheck`."""
        samples = self.kind == "policy"  # others sample for the evaluation alone
        if self._evaluates(step) or (samples and step % self.config.engine.check.every == 0):
            self._log(step, self.sync_check.probe(step), board)
        elif samples and step == self.start:  # of a run that goes on: an unbroken one has no such figures
            self.sync_check.probe(step)

    def _check_batch(self, step: int, groups: list[Group]) -> None:
        """Says what is wrong with a batch, and refuses one of which nothing can be learned."""
        everyone = [trajectory for group in groups for trajectory in group.trajectories]
        self.display.problems(f"step {step + 1}", everyone)
        if all(trajectory.advantage is None and trajectory.missing for trajectory in everyone):
            problems = Counter(problem for trajectory in everyone for problem in problems_of(trajectory))
            raise ValueError(
                f"step {step + 1} has nothing to learn from: every episode lacks a reward, most for this:\n"
                f"{problems.most_common(1)[0][0]}\nMend it (`grpo-agents check {self.config.env.id}` helps), then go "
                f"on with `grpo-agents train --resume {self.folder.path}`"
            )
        if self.kind == "policy":
            self._check_versions(step, everyone)
        if known := sum(task_key(self.config.env.id, group.task) in self._evaluated for group in groups):
            self.display.say(
                f"step {step + 1}: {known} of {len(groups)} tasks are among those of the evaluation. To evaluate on "
                "tasks that are held out, set eval.source or eval.env_options"
            )
            self._evaluated = set()  # once is enough

    def _check_versions(self, step: int, trajectories: list[Trajectory]) -> None:
        """Refuses what older weights sampled: one step older at most with ``train.overlap``, none without."""
        right = range(max(0, step - int(self.config.train.overlap)), step + 1)
        for trajectory in trajectories:
            for turn in trajectory.steps:
                if turn.version not in right:
                    raise ValueError(
                        f"step {step + 1}: version {turn.version} of the weights sampled a turn of trajectory "
                        f"{trajectory.id}, not {' or '.join(map(str, right))}. The engine keeps old weights, or "
                        "miscounts. Checkpoints are intact: mend it, then go on with "
                        f"`grpo-agents train --resume {self.folder.path}`"
                    )

    # Evaluation

    def _make_evaluation(self) -> tuple[Rollout, list[Task]] | None:
        """What plays the evaluations and their tasks, the same ones every time."""
        settings = self.config.eval
        if settings.every is None:
            return None
        rollout, tasks = self.parts.rollout(evaluating=True)
        return rollout, [pick(tasks, number, self.config.seed) for number in range(settings.tasks)]

    def _evaluates(self, step: int) -> bool:
        every = self.config.eval.every
        return every is not None and (step % every == 0 or step == self.config.train.steps)

    def _evaluate_if_due(self, step: int, board: SummaryWriter) -> None:
        if not self._evaluates(step):
            return
        groups = self._evaluate(step)
        figures: Figures = {}
        gate, vector = self.config.advantage.gate, self.parts.vector
        everyone = [trajectory for group in groups for trajectory in group.trajectories]
        columns: dict[str, list[float | None]] = {
            f"eval/{name}": [trajectory.rewards[name] for trajectory in everyone] for name in vector.names
        }
        columns["eval/reward"] = [
            utility(trajectory.rewards, trajectory.preference, vector, self.parts.maxima, gate)
            for trajectory in everyone
        ]
        for name, values in columns.items():
            known = [
                (value, task_key(trajectory.env, trajectory.task))
                for value, trajectory in zip(values, everyone, strict=True)
                if value is not None
            ]
            if missing := len(everyone) - len(known):
                figures[name.replace("eval/", "eval/missing/")] = float(missing)
            if known:
                interval = mean_interval([value for value, _ in known], [key for _, key in known])
                figures |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        self._log(step, figures, board)
        self.display.problems(f"evaluation at step {step}", everyone)
        self.display.evaluation(step, figures)

    def _evaluate(self, step: int) -> list[Group]:
        """Plays and stores the tasks of the evaluation with the present weights, with the same seeds every time."""
        assert self.evaluation is not None
        settings = self.config.eval
        rollout, chosen = self.evaluation
        groups: list[Group] = []
        with self.display.evaluating(settings.tasks * settings.rollouts) as ended:
            for start in range(0, len(chosen), size := max(1, self.config.engine.max_rows // settings.rollouts)):
                some = rollout.sample(
                    chosen[start : start + size],
                    seed=mix(self.config.seed, 2, start),
                    group_size=settings.rollouts,
                    temperature=settings.temperature,
                    progress=ended,
                )
                for group in some:
                    for trajectory in group.trajectories:
                        trajectory.group += start
                groups += some
        rollout.close()
        self._store("eval", step, groups)
        return groups

    # What is kept

    def _store(self, phase: str, step: int, groups: list[Group]) -> None:
        file = self.folder.trajectory_file(phase, step)
        store.write(file, groups, step=step, phase=phase, scoring=self.parts.scoring)

    def _log(self, step: int, figures: Figures, board: SummaryWriter) -> None:
        self.folder.log({"step": step, **figures})
        for name, value in figures.items():
            board.add_scalar(name, value, step)

    def _save(self, done: int) -> None:
        def fill(folder: Path) -> None:
            save_policy(self.model, self.parts.chat.tokenizer, folder / "model")
            state = {name: tensor.contiguous() for name, tensor in self.learner.optimizer.state().items()}
            save_file(state, folder / OPTIMIZER_FILE)
            for file, module in self._beside_the_policy().items():
                named = module.named_parameters()  # tied ones once, as safetensors wants them
                save_file({name: value.detach().contiguous() for name, value in named}, folder / file)
            if (reward_model := self._moving_reward_model) is not None:
                reward_model.save(folder)
            if self._ahead is not None:  # its weights are gone, and it could not be sampled again
                store.write(folder / AHEAD_FILE, self._ahead[0], step=done, phase="train", scoring=self.parts.scoring)
            if isinstance(self.source, PolicySource) and (counts := self.source.curriculum.state) is not None:
                np.save(folder / CURRICULUM_FILE, counts)

        scaler = self.learner.optimizer.scaler.state_dict()
        state: dict[str, Any] = {"updates": self.learner.updates, "skips": self.learner.skips, "scaler": scaler}
        if self._ahead is not None:
            state["ahead"] = self._ahead[1]
        checkpoint.write(self.folder.checkpoints, done, state, fill, self.config.train.keep)

    def _beside_the_policy(self) -> dict[str, torch.nn.Module]:
        """What else of the learner moves, by its file in a checkpoint."""
        learner, moving = self.learner, {}
        if learner.critic is not None:
            moving[CRITIC_FILE] = learner.critic
        if learner.reference is not None and self.method.reference_period is not None:
            moving[REFERENCE_FILE] = learner.reference
        return moving

    def _restore(self) -> int:
        found = checkpoint.latest(self.folder.checkpoints, self.display.say)
        if found is None:
            self.display.say(f"{self.folder.path} has no checkpoint that can be used; starting from the first step")
            return 0
        if found.step > self.config.train.steps:
            raise ValueError(
                f"train.steps is {self.config.train.steps}, and {found.folder} is after {found.step} steps: set "
                f"train.steps to at least {found.step}, or remove the checkpoints that come too late"
            )
        restore_policy(self.model, found.folder / "model")
        self.learner.optimizer.load(load_file(found.folder / OPTIMIZER_FILE))
        for file, module in self._beside_the_policy().items():
            module.load_state_dict(load_file(found.folder / file), strict=False)  # tied ones are there once
        if (reward_model := self._moving_reward_model) is not None:
            reward_model.load(found.folder)
        self.learner.updates, self.learner.skips = found.state["updates"], found.state["skips"]
        if found.state.get("scaler"):
            self.learner.optimizer.scaler.load_state_dict(found.state["scaler"])
        if self.config.train.overlap and (found.folder / AHEAD_FILE).exists():
            assert isinstance(self.source, PolicySource)
            groups = store.read_groups(found.folder / AHEAD_FILE)
            self._ahead = groups, self.source.weigh(groups) | found.state.get("ahead", {})
        if isinstance(self.source, PolicySource) and self.source.curriculum.state is not None:
            if (counts := found.folder / CURRICULUM_FILE).exists():
                self.source.curriculum.restore(np.load(counts))
            else:
                self.display.say(f"{found.folder} has no {CURRICULUM_FILE}: nothing is known of pass rates yet")
        self.display.say(f"going on from {found.folder}, after {found.step} steps")
        return found.step

    def _make_source(self) -> Source:
        config, size, seed = self.config, self.config.train.batch, self.config.seed
        path = config.source.path
        if self.kind in WRITTEN:
            written = load_tasks(str(path), split=config.source.split, seed=seed)
            make = DemonstrationSource if self.kind == "demonstrations" else PairSource
            return make(written, self.parts.chat, size, seed)
        check_needed(self.method, self.parts.vector)
        weigh = Weighing(self.parts.vector, config.advantage, self.parts.maxima, self.method)
        if self.kind == "stored":
            rescore = self._rescore if config.source.rescore else None
            return StoredSource(str(path), weigh, size, seed, rescore=rescore)
        rollout, tasks = self.parts.rollout()
        resample = self.method.most_resamples
        curriculum = make_curriculum(
            config.curriculum,
            tasks,
            self.parts.vector,
            gate=config.advantage.gate,
            seed=seed,
            size=size,
            resample=resample,
            steps=config.train.steps,
        )
        policy = PolicySource(rollout, curriculum, weigh, size, seed, resample=resample, progress=self.display.episodes)
        if self.kind == "policy":
            return policy
        return FrozenSource(policy, config.source.batches, self.folder.trajectories, self.parts.scoring)

    def _rescore(self, groups: list[Group]) -> None:
        """Computes the rewards of groups as if they had been sampled by this run."""
        self.parts.vector.score(groups, self.parts.resources)
        apply_truncation(groups, self.parts.vector, self.config.rollout.truncated)


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Trains as the config says; gives the run folder. See :class:`Trainer`."""
    return Trainer(config, resume=resume, overwrite=overwrite).train()


def resume(folder: str | Path) -> Path:
    """Goes on with a run that was stopped or killed; gives the run folder.

    Raises:
        FileNotFoundError: The folder holds no run.
    """
    config = load_config(RunFolder(folder).config)
    return train(config.model_copy(update={"run": str(folder)}), resume=True)


@contextmanager
def _politely() -> Iterator[Callable[[], bool]]:
    """Lets the first Ctrl-C wait for the step under way; a second one stops at once."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            previous(signum, frame) if callable(previous) else signal.default_int_handler(signum, frame)
        asked = True

    try:
        previous = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: signals are not ours to handle
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
