"""``train`` and ``rollout``: what needs a model."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_agents.cli.commands import ConfigFile, Overrides
from grpo_agents.cli.errors import console

if TYPE_CHECKING:
    from grpo_agents.config import Config
    from grpo_agents.run_folder import RunFolder


def train(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="The run's TOML file.")] = None,
    set_: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where the folder holds a run.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with the run in this folder; --set cluster.… moves it elsewhere."),
    ] = None,
) -> None:
    """Train as a config says, or go on with a run. Ctrl-C finishes the step and saves.

    Example: `grpo-agents train my.toml --set train.steps=200`

    Then: `grpo-agents train --resume runs/my`
    """
    if config is None and resume is None:
        raise ValueError("name a config to train, or a run to go on with: --resume RUN")
    if config is not None and resume is not None:
        raise ValueError(f"a run goes on with the config in its folder: leave {config} out, or --resume")
    elsewhere = all(override.startswith("cluster.") for override in set_ or ())
    if resume is not None and (overwrite or not elsewhere):
        raise ValueError(
            "a run goes on as it began: --overwrite, and --set but for [cluster], do not go with --resume. To train "
            f"longer, raise train.steps in {resume / 'config.toml'} and resume; a learning-rate schedule then spans "
            "all of them"
        )
    _hush()
    from grpo_agents import trainer
    from grpo_agents.config import load_config
    from grpo_agents.learner import ranks
    from grpo_agents.run_folder import RunFolder

    if config is not None:
        settings = load_config(config, set_ or ())
        if config.resolve() == RunFolder(settings.run).config.resolve():
            raise ValueError(
                f"{config} lies where the run writes a config.toml of its own: give it another name, or choose another "
                "folder: --set run=…"
            )
        folder = RunFolder(settings.run)
        go = partial(trainer.train, settings, overwrite=overwrite)
    else:
        assert resume is not None
        folder = RunFolder(resume)
        if not folder.config.is_file():
            runs = sorted(str(found.parent) for found in resume.parent.glob("*/config.toml"))
            there = f"Beside it are {', '.join(runs)}" if runs else "`grpo-agents train CONFIG` begins one"
            raise FileNotFoundError(f"{resume} holds no run. {there}")
        go = partial(trainer.resume, resume, set_ or ())
    try:
        go()
    except KeyboardInterrupt as stop:
        if str(stop) and type(stop) is KeyboardInterrupt and folder.read_metrics():  # it finished its step
            _sum_up(folder)
        raise
    if ranks.first():
        _sum_up(folder)


def _sum_up(folder: RunFolder) -> None:
    """Says what came of a run, where it is and what to do next."""
    from grpo_agents.report.run_pictures import draw_run
    from grpo_agents.terminal.run_summary import RunSummary

    summary, run = RunSummary(folder), folder.path
    summary.print(console())
    typer.echo()
    places: dict[str, object] = {
        "pictures": ", ".join(map(str, draw_run(run))),
        "figures": f"{folder.metrics}, or tensorboard --logdir {folder.tensorboard}",
        "model": folder.model if folder.model.exists() else folder.checkpoints,
    }
    if summary.evaluations:
        places["evaluate"] = f"grpo-agents evaluate {summary.evaluations[-1]}"
    if batches := sorted(folder.trajectories.glob("train-*.parquet")):
        places["explain"] = f"grpo-agents explain {run} --trajectory 0.0"
    if summary.evaluations or batches:
        env = summary.config["env"]["id"]
        own = "" if env.startswith("grpo_agents/") else f" --env {env}"
        places["replay"] = f"grpo-agents replay {run}{own}"
    for name, place in places.items():
        typer.echo(f"{name:9} {place}")


def rollout(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file to write.")],
    set_: Overrides = None,
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks.")] = 16,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token, one rollout a task.")] = False,
    evaluation: Annotated[bool, typer.Option("--eval", help="Tasks of the config's [eval].")] = False,
) -> None:
    """Sample episodes with a config's model and environment, store them and sum them up.

    Example: `grpo-agents rollout my.toml --tasks 64 --out runs/tried.parquet`
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it, or choose another --out")
    _hush()
    from grpo_agents import store
    from grpo_agents.build import build
    from grpo_agents.config import load_config
    from grpo_agents.evaluation import evaluate
    from grpo_agents.sources import pick

    settings: Config = load_config(config, set_ or ())
    parts = build(settings, say=console(stderr=True).print)
    with closing(parts):
        player, source = parts.rollout(evaluating=evaluation)
        with console(stderr=True).status(f"playing {tasks} tasks"):
            groups = player.sample(
                [pick(source, number, settings.seed) for number in range(tasks)],
                seed=settings.seed,
                group_size=1 if greedy else None,
                temperature=0.0 if greedy else None,
            )
    store.write(out, groups, scoring=parts.scoring)
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    console().print(evaluate(trajectories, parts.vector, parts.maxima, settings.advantage.gate).as_table())
    typer.echo(f"stored in {out}")


def reward_model(
    model: Annotated[str, typer.Option(metavar="PATH", help="A classifier or base model: hub id or folder.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the trained one goes.")],
    pairs: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Dicts of prompt, chosen and rejected; as tasks.source.")
    ] = None,
    trajectories: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Or stored groups: the best of each against its worst.")
    ] = None,
    label: Annotated[str, typer.Option(help="The reward component that says which is better.")] = "outcome",
    epochs: Annotated[int, typer.Option(min=1, help="How often every pair is seen.")] = 1,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate.")] = 1e-5,
    batch: Annotated[int, typer.Option(min=1, help="Pairs in a batch.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the order, and of a head that is new.")] = 0,
) -> None:
    """Train a reward model on pairs; its folder is for `reward_model.path` of a run.

    Example: `grpo-agents reward-model --model Qwen/Qwen3-0.6B --trajectories runs/my/trajectories --out runs/judge`
    """
    if (pairs is None) == (trajectories is None):
        raise ValueError("name pairs, or stored groups to make them of: --pairs or --trajectories")
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it, or choose another --out")
    _hush()
    from grpo_agents import store
    from grpo_agents.learner.reward_model import RewardModel, best_and_worst, read_pairs
    from grpo_agents.learner.settings import RewardModelConfig

    judge = RewardModel(RewardModelConfig(path=model, lr=lr, batch=batch, replay=0.0), seed=seed)
    if pairs is not None:
        known = read_pairs(judge, pairs)
    else:
        assert trajectories is not None
        scoring = store.read_scoring(trajectories)
        vector = () if scoring is None else scoring.vector
        found = best_and_worst(store.read_groups(trajectories), label, vector)
        if not found:
            raise ValueError(f"{trajectories}: no group has trajectories that differ in {label!r}")
        known = judge.encode_pairs(found)
        if left_out := len(found) - len(known):
            longer = f"of {len(found)} pairs have more than {judge.config.max_tokens} tokens, and are left out"
            typer.echo(f"{left_out} {longer}", err=True)
    for epoch in range(epochs):
        figures = judge.learn(known)
        typer.echo(
            f"epoch {epoch + 1}: loss {figures['reward_model/loss']:.3f}, "
            f"{figures['reward_model/accuracy']:.1%} of {figures['reward_model/pairs']:.0f} pairs in the right order "
            "before each update"
        )
    judge.save_pretrained(out)
    typer.echo(f'reward_model.path = "{out}"')


def _hush() -> None:
    """No bars of transformers between ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
