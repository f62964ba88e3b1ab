"""The command line. Whatever is heavy is imported inside the command that needs it, so that help is quick."""

from __future__ import annotations

import keyword
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

import grpo_agents

if TYPE_CHECKING:
    from rich.console import Console

    from grpo_agents.config import Config
    from grpo_agents.rewards.component import RewardVector
    from grpo_agents.scoring import Scoring
    from grpo_agents.trajectory import Group, Trajectory

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def _plain(params: list[Any]) -> list[Any]:
    """Parameters whose help shows no type: a flag takes no value, and an argument's name says what it is."""
    for param in params:
        if isinstance(param, TyperArgument):
            param.display_type_rich = lambda ctx: None
        elif param.is_flag:
            param.metavar = ""
    return params


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class _Commands(_Group):
    """Turns what was raised for a person to read into one message on stderr."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            _fail(str(stop) or "stopped", INTERRUPTED)
        except BrokenPipeError:  # the reader of a pipe has seen enough
            raise
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            if ctx.params.get("debug"):
                raise
            _fail(_message(error))
        except ModuleNotFoundError as error:
            if ctx.params.get("debug") or error.name not in _TRAINING:
                raise
            _fail(f"{error.name} is not installed, and this command needs it: pip install 'grpo-agents[train]'")


_TRAINING = {"torch", "transformers", "safetensors", "peft", "datasets", "tensorboard", "matplotlib"}


def _message(error: Exception) -> str:
    """What to say of an error; where this package did not raise it itself, also how to see where it came from."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if raised_in.is_relative_to(Path(__file__).parent):
        return text
    return f"{type(error).__name__}: {text}\n(`grpo-agents --debug …` shows where)"


def _fail(message: str, code: int = 2) -> NoReturn:
    _console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, emoji=False)  # else Rich takes the :X: of `file.py:X: …` for one


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train language models that use tools: define an environment, train, evaluate.\n\n"
    "Each command's --help has an example.",
)
new = typer.Typer(cls=_Group, no_args_is_help=True, help="Write a short starting file that runs as it is.")
app.add_typer(new, name="new")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value, as learner.optimizer.lr=1e-6.")
]
EnvName = Annotated[str, typer.Argument(metavar="ENV", help="A Gymnasium id, module:Class or file.py:Class.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"grpo-agents {grpo_agents.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="GRPO_AGENTS_DEBUG", help="Show where an error comes from.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options before the command."""


def _hush() -> None:
    """No bars of transformers between ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


@app.command(cls=_Command)
def train(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="The run's TOML file.")] = None,
    set_: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where the folder holds a run.")] = False,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with the run in this folder.")] = None,
) -> None:
    """Train as a config says, or go on with a run. Ctrl-C finishes the step and saves.

    Example: `grpo-agents train my.toml --set train.steps=200`

    Then: `grpo-agents train --resume runs/my`
    """
    if (config is None) == (resume is None):
        raise ValueError("name a config to train, or a run to go on with: --resume RUN")
    if resume is not None and (set_ or overwrite):
        raise ValueError(
            "a run goes on as it began: --set and --overwrite do not go with --resume. To train longer, raise "
            f"train.steps in {resume / 'config.toml'} and resume; a learning-rate schedule then spans all of them"
        )
    _hush()
    from grpo_agents import trainer
    from grpo_agents.config import load_config
    from grpo_agents.run_folder import RunFolder

    if config is not None:
        settings = load_config(config, set_ or ())
        if config.resolve() == RunFolder(settings.run).config.resolve():
            raise ValueError(
                f"{config} lies where the run writes a config.toml of its own: give it another name, or choose another "
                "folder: --set run=…"
            )
        run = trainer.train(settings, overwrite=overwrite)
    else:
        assert resume is not None
        run = trainer.resume(resume)
    from grpo_agents.report.run_pictures import draw_run

    places = {
        "pictures": ", ".join(map(str, draw_run(run))),
        "figures": f"{run / 'metrics.jsonl'}, or tensorboard --logdir {run / 'tensorboard'}",
        "model": run / "model",
    }
    if evaluations := sorted((run / "trajectories").glob("eval-*.parquet")):
        places["evaluate"] = f"grpo-agents evaluate {evaluations[-1]}"
    for name, place in places.items():
        typer.echo(f"{name:9} {place}")


@app.command(cls=_Command)
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
    parts = build(settings)
    player, source = parts.rollout(evaluating=evaluation)
    with _console(stderr=True).status(f"playing {tasks} tasks"):
        groups = player.sample(
            [pick(source, number, settings.seed) for number in range(tasks)],
            seed=settings.seed,
            group_size=1 if greedy else None,
            temperature=0.0 if greedy else None,
        )
    player.close()
    store.write(out, groups, scoring=parts.scoring)
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    _console().print(evaluate(trajectories, parts.vector, parts.maxima, settings.advantage.gate).as_table())
    typer.echo(f"stored in {out}")


@app.command("evaluate", cls=_Command)
def evaluate_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Trajectory files, folders of them, or runs.")],
    rewards: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Components with commas between them, or one file.py:vector: computed anew, but for what the "
            "environment gave. Else what is stored.",
        ),
    ] = None,
    env: Annotated[
        str | None, typer.Option(metavar="ENV", help="Whose maxima scale costs. Else those that are stored.")
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Component that multiplies the rest, '' for none. Else the one stored."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of tables.")] = False,
) -> None:
    """Numbers from stored trajectories, with intervals clustered by task. Needs no model.

    Example: `grpo-agents evaluate runs/my/trajectories/eval-000100.parquet`
    """
    import json

    from grpo_agents import store
    from grpo_agents.evaluation import evaluate

    files = [folder if (folder := file / "trajectories").is_dir() else file for file in files]  # of a run folder, those
    stored = store.read_scoring(files)
    vector: RewardVector | None
    if rewards is None:
        trajectories = store.read(files)
        vector = stored.vector if stored else _vector_by_names(trajectories)
    else:
        groups = store.read_groups(files)
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        vector = _vector(rewards, trajectories, stored)
        _score_anew(vector, groups)
    if vector is None and gate:
        raise ValueError(f"--gate {gate} needs a vector to gate: add --rewards file.py:vector")
    maxima = stored.maxima if stored and env is None else _maxima(env, trajectories)
    if gate is None and stored and stored.gate:
        gate = stored.gate if vector and stored.gate in vector.names else None
        if gate is None:
            typer.echo(f"no gate: the stored one, {stored.gate}, is not among these rewards", err=True)
    steps = store.read_steps(files)
    if len(steps) > 1:
        typer.echo(
            f"these episodes are of {len(steps)} policies, of steps {', '.join(map(str, steps[:-1]))} and {steps[-1]}, "
            "and are pooled here: name one file to see one",
            err=True,
        )
    summary = evaluate(trajectories, vector or (), maxima, gate or None)
    if as_json:
        typer.echo(json.dumps(summary.as_dict(), indent=2))
        return
    _console().print(summary.as_table())
    if vector is None:
        typer.echo(
            "no scalar reward: whether more of a component of your own is better is known to its vector. "
            "Add --rewards file.py:vector"
        )


def _given(trajectories: Sequence[Trajectory]) -> list[str]:
    """The components that the environment itself gave."""
    return list(dict.fromkeys(name for entry in trajectories for step in entry.steps for name in step.rewards))


def _vector_by_names(trajectories: Sequence[Trajectory]) -> RewardVector | None:
    """The vector of a file that does not say it, as far as names tell; None where the direction of one is not known."""
    from grpo_agents.rewards import BUILT_IN
    from grpo_agents.rewards.component import RewardVector, from_environment

    known = {**{name: from_environment(name) for name in _given(trajectories)}, **BUILT_IN}
    names = dict.fromkeys(name for trajectory in trajectories for name in trajectory.rewards)
    return RewardVector([known[name] for name in names]) if names and known.keys() >= names.keys() else None


def _vector(names: str, trajectories: Sequence[Trajectory], stored: Scoring | None) -> RewardVector:
    """The vector that a person named: of what is built in, what the environment gave, and what is stored."""
    from grpo_agents.rewards import BUILT_IN, as_vector
    from grpo_agents.rewards.component import from_environment
    from grpo_agents.tasks import load_object

    given = {name: from_environment(name) for name in _given(trajectories)}
    given |= {entry.name: entry for entry in (stored.vector if stored else ()) if entry.name not in BUILT_IN}
    one = ":" in names and "," not in names
    wanted = load_object(names) if one else [name.strip() for name in names.split(",")]
    return as_vector(wanted, given, f"--rewards {names}")


def _score_anew(vector: RewardVector, groups: Sequence[Group]) -> None:
    """Computes what can be computed; a component without a function stays as it is stored, where it is."""
    from grpo_agents.rewards.component import RewardVector

    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    stored = {name for trajectory in trajectories for name in trajectory.rewards}
    kept = {entry.name for entry in vector if entry.function is None and entry.name in stored}
    for trajectory in trajectories:
        trajectory.rewards = {name: value for name, value in trajectory.rewards.items() if name in kept}
        trajectory.missing = {name: reason for name, reason in trajectory.missing.items() if name in kept}
    if computed := [entry for entry in vector if entry.name not in kept]:
        RewardVector(computed).score(groups)


def _maxima(env: str | None, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The environment's, or those of the built-in one that was played: no code is run because a data file names it."""
    from grpo_agents.env import make_env
    from grpo_agents.scoring import check_maxima

    played = {trajectory.env for trajectory in trajectories}
    if env is None and len(played) == 1 and (name := played.pop()).startswith("grpo_agents/"):
        env = name
    if not env:
        return {}
    made = make_env(env)
    check_maxima(made.maxima, made.components)
    return dict(made.maxima)


@app.command(cls=_Command, context_settings={"ignore_unknown_options": True})  # -5 is an answer
def verify(
    gold: Annotated[str, typer.Argument(metavar="GOLD", help="The right answer, in LaTeX or plain.")],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="The answer to judge.")],
    response: Annotated[
        bool, typer.Option("--response", help=r"ANSWER is a whole response: what is in its last \\boxed{} is judged.")
    ] = False,
    marker: Annotated[
        str | None, typer.Option(metavar="TEXT", help="In a response, what an answer may also follow, such as ####.")
    ] = None,
    digits: Annotated[int, typer.Option(min=1, help="Digits from which a rounded decimal stands for a number.")] = 6,
    percent: Annotated[
        Literal["either", "value", "number"], typer.Option(help="Whether 50 % is 1/2, 50, or either.")
    ] = "either",
    degrees: Annotated[Literal["unit", "radians"], typer.Option(help="Whether 90° is 90 or half of pi.")] = "unit",
    boxes: Annotated[
        Literal["last", "refuse", "adjacent"],
        typer.Option(help="Of several boxes the last counts, or none, or those side by side as a list."),
    ] = "last",
    prose: Annotated[bool, typer.Option("--prose", help="Look for answers inside their sentences.")] = False,
) -> None:
    r"""Show whether two answers of mathematics are the same, and why. Exit code 0 if they are, 1 if not.

    Example: grpo-agents verify '\frac12' '0.5'
    """
    from rich.table import Table

    from grpo_agents.rewards.math_answer import Conventions, extract
    from grpo_agents.rewards.math_answer import verify as compare

    conventions = Conventions(digits=digits, percent=percent, degrees=degrees, boxes=boxes, prose=prose)
    found: str | None = answer
    if response and (found := extract(answer, marker)) is None:
        typer.echo("no answer: the response has no \\boxed{}" + (f" and no {marker}" if marker else ""))
        raise typer.Exit(1)
    verdict = compare(gold, found, conventions)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (
        ("verdict", verdict.status), ("by", verdict.rule), ("gold", verdict.gold), ("answer", verdict.answer)
    ):  # fmt: skip
        table.add_row(name, value or "—")
    _console().print(table)
    typer.echo(verdict.sentence)
    if not verdict:
        raise typer.Exit(1)


@app.command(cls=_Command)
def envs() -> None:
    """List the environments that come with the package: what they ask, tools and prices, rewards.

    Example: `grpo-agents envs`
    """
    import gymnasium
    from rich.table import Table

    from grpo_agents.env import make_env
    from grpo_agents.play import describe_costs

    table = Table(show_lines=True)
    for column in ("environment", "what happens", "tools (a call)", "rewards"):
        table.add_column(column, no_wrap=column == "environment")
    for name in sorted(name for name in gymnasium.registry if name.startswith("grpo_agents/")):
        env = make_env(name)
        tools = [f"{tool.name} {describe_costs(tool)}" for tool in env.tools]
        line = (type(env).__doc__ or "").strip().split("\n")[0].replace("``", "")
        table.add_row(name, line, "\n".join(tools) or "none", ", ".join(env.components))
    _console().print(table)


@app.command(cls=_Command)
def check(env: EnvName) -> None:
    """Check that an environment keeps the contract. Plays it with made-up answers: its tools are really called.

    Example: `grpo-agents check shop.py:Shop`
    """
    from grpo_agents.contract import check as check_contract
    from grpo_agents.env import make_env

    findings = check_contract(lambda: make_env(env))
    console = _console()
    for finding in findings:
        mark, style = ("✓", "green") if finding.problem is None else ("✗", "red")
        console.print(f"[{style}]{mark}[/{style}]", finding.checked, highlight=False)
        if finding.problem is not None:
            remedy = f"\n  → {finding.remedy}" if finding.remedy else ""
            console.print(f"  {finding.problem}{remedy}", markup=False, highlight=False, soft_wrap=True)
    broken = sum(finding.problem is not None for finding in findings)
    console.print(
        f"{env}: {f'{broken} of {len(findings)} checks failed' if broken else 'all is well'}", highlight=False
    )
    if broken:
        raise typer.Exit(1)


@app.command(cls=_Command)
def keys(
    section: Annotated[str, typer.Argument(metavar="SECTION", help="As learner, or learner.optimizer; else all.")] = "",
) -> None:
    """List the keys of a config: what each takes, its default, and what it means.

    Example: `grpo-agents keys learner.optimizer`
    """
    from grpo_agents.config import list_keys

    for key in list_keys(section):
        typer.echo(f"{key.name}: {key.type} = {key.default}\n    {key.description}")


Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the file, NAME.py.")]


@new.command("env", cls=_Command)
def new_env(name: Name) -> None:
    """An environment with a tool.

    Example: `grpo-agents new env shop` writes shop.py with the class Shop
    """
    words = name.split("_")
    made = "".join(word[:1].upper() + word[1:] for word in words)
    path = _write("environment", name, {"MyEnvironment": made, "FILE": f"{name}.py:{made}"})
    typer.echo(f"wrote {path}. Next: grpo-agents check {path}:{made}; grpo-agents play {path}:{made}")


@new.command("reward", cls=_Command)
def new_reward(name: Name) -> None:
    """A reward component and a vector.

    Example: `grpo-agents new reward brief` writes brief.py with the vector brief.py:vector
    """
    path = _write("reward", name, {"FILE": f"{name}.py"})
    typer.echo(f'wrote {path}. In a config: [rewards] with vector = "{path}:vector"')


def _write(template: str, name: str, names: dict[str, str]) -> Path:
    """Fills a template into NAME.py, which must not exist."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} cannot name a Python module: use letters, digits and _, and no word of Python's own"
        )
    if name in sys.stdlib_module_names:
        raise ValueError(f"Python has a module {name!r} of its own, which {name}.py could hide: choose another name")
    path = Path(f"{name}.py")
    text = (resources.files(grpo_agents) / "templates" / f"{template}.py.txt").read_text(encoding="utf-8")
    for placeholder, value in names.items():
        text = text.replace(placeholder, value)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FileExistsError(f"{path} exists; choose another name") from None
    return path


@app.command(cls=_Command)
def play(env: EnvName, seed: Annotated[int | None, typer.Option(help="The same episode every time.")] = None) -> None:
    """Be the policy yourself, for one episode; lines may also be piped in.

    Example: `grpo-agents play grpo_agents/Orchestra-v0 --seed 1`
    """
    from grpo_agents.env import make_env
    from grpo_agents.play import play as play_episode

    play_episode(make_env(env), _typed(), typer.echo, seed=seed)


def _typed() -> Iterator[str]:
    """Lines of stdin, with a prompt where a person sits at it."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def main() -> None:
    """The console script."""
    sys.path.append(os.getcwd())  # configs name a user's own modules; last, so that a calendar.py hides nobody's
    app()
