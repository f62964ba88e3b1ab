"""The lens: how hard each method would push each sampled token of a stored trajectory, and which way.

Every method of DeepSeekMath's unified paradigm (arXiv 2402.03300, section 5) is one gradient,

    ∇J = E (1/|o|) Σ_t GC_t ∇ log π(o_t),

and differs in its coefficient GC. :func:`explain` takes −∂loss/∂log π of each method by differentiation, with the
trajectory's own group as the whole batch, and multiplies it by what the loss divides by there: |o|, and the number of
trajectories (of pairs, with DPO) that take part. With ``aggregation = "sequence"``, as GRPO has it, what is left is
the paper's coefficient itself. With other aggregations it also shows what they do to lengths: ``token`` leaves a
factor |o|/mean |o|, ``constant`` a factor |o|/max_length.

Methods that learn from other data are shown as if the trajectory were theirs: as a demonstration (SFT), as a sample of
the first policy (RFT), as one of a pair of the group's best and worst (DPO).
"""

from __future__ import annotations

import inspect
import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from grpo_agents import store
from grpo_agents.advantage import AdvantageConfig, assign_advantages
from grpo_agents.config import Config, load_config
from grpo_agents.learner.batch import assign_credit, make_batch
from grpo_agents.learner.learner import Forward, Learner
from grpo_agents.learner.model import load_tokenizer
from grpo_agents.lens_subject import Scored, find, find_old, find_weights, load_old, make_learner, score
from grpo_agents.methods import Method, coefficients, make_method
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.surrogate import kl_estimate
from grpo_agents.run_folder import RunFolder
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Group, Trajectory

OWN = "run"
"""What the run's own method is called."""

PAPER: dict[str, dict[str, Any]] = {
    "sft": {},
    "rft": {},
    "online_rft": {},
    "dpo": {"form": "length_normalised"},
    "ppo": {"kl_weight": 0.04},
    "grpo": {"kl_weight": 0.04},
}
"""The methods of the paper's table, with its settings."""

SOURCES = {
    "policy": "policy's groups",
    "frozen": "first policy's",
    "stored": "stored groups",
    "pairs": "pairs",
    "demonstrations": "demonstrations",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What one method makes of the trajectory's sampled tokens.

    Attributes:
        method: The method.
        advantages: Â of each, (tokens,); NaN where the trajectory takes no part.
        gradient: −∂loss/∂log π of each, (tokens,).
        scale: What makes the paper's coefficient of it: |o| times the trajectories or pairs that take part.
        clipped: Where the clip takes the gradient of the surrogate away, (tokens,).
        note: What else is to be known, or an empty text.
    """

    method: Method
    advantages: np.ndarray
    gradient: np.ndarray
    scale: int
    clipped: np.ndarray
    note: str = ""

    @property
    def coefficients(self) -> np.ndarray:
        """The coefficient of each token on the paper's scale, (tokens,)."""
        return self.gradient * self.scale

    @property
    def source(self) -> str:
        """What the method usually learns from, in words."""
        return SOURCES[self.method.sources[0]]

    @property
    def formula(self) -> str:
        """Its coefficient in words."""
        kind = type(self.method)
        if vars(kind).keys() & {"formula", "pushes"}:
            return self.method.formula
        said = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        return " ".join(filter(None, [said, self.method.formula]))


@dataclass(frozen=True, slots=True)
class Explanation:
    """What :func:`explain` found.

    Attributes:
        trajectory: The trajectory.
        file: Where it is stored.
        policy: Where the weights of π are.
        reference: Where those of π_ref are.
        group_size: Rollouts of its group.
        readings: What each method makes of it, by the name it was asked for.
        notes: What else a reader should know.
        table: A row a sampled token; see :meth:`save`.
    """

    trajectory: Trajectory
    file: Path
    policy: Path
    reference: str
    group_size: int
    readings: dict[str, Reading]
    notes: list[str]
    table: pa.Table

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        methods = {
            name: {
                "settings": {"name": reading.method.name, **reading.method.settings()},
                "source": reading.source,
                "reward": reading.method.reward,
                "coefficient": reading.formula,
                "scale": reading.scale,
                "note": reading.note,
            }
            for name, reading in self.readings.items()
        }
        return {
            "trajectory": self.trajectory.id,
            "file": str(self.file),
            "policy": str(self.policy),
            "reference": self.reference,
            "group_size": self.group_size,
            "rewards": self.trajectory.rewards,
            "methods": methods,
            "notes": self.notes,
            "tokens": self.table.to_pylist(),
        }

    def save(self, folder: Path) -> Path:
        """Writes the table as Parquet, in place of an earlier one of the same trajectory; gives the file.

        Its columns: ``run_step``, ``phase``, ``group`` and ``index``, which join it with the trajectories;
        ``trajectory`` (its id), ``sample`` and ``position`` (where the token stands in the trajectory's samples),
        ``turn``, ``token`` (id) and ``text``; ``length`` (|o|); ``logprob``, ``old_logprob``, ``sampler_logprob`` (as
        the engine returned it), ``reference_logprob``, ``ratio`` (ρ) and ``kl`` (k3); ``advantage`` of the first
        method; and for each method its coefficient under its name, −∂loss/∂log π as ``NAME_gradient``, and
        ``NAME_clipped``.
        """
        path = folder / f"{self.file.stem}-{self.trajectory.id}.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        pq.write_table(self.table, unfinished)
        unfinished.replace(path)
        return path


def explain(
    run: str | Path,
    trajectory: str,
    *,
    methods: Sequence[str] | None = None,
    step: int | None = None,
    file: str | Path | None = None,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Explanation:
    """Shows the coefficient that methods give to each sampled token of a stored trajectory.

    π is computed by the learner, and so is π_ref, the model that the run began with; π_old is what the engine returned
    when it sampled, but where the run computed it again (``learner.old_logprobs``) and the weights of that step are
    still there: then it is computed with them, and ``tis`` and ``mis`` weigh tokens by π_old/π_sampler as they did.

    Args:
        run: The run folder.
        trajectory: The trajectory's id, as ``3.0``.
        methods: Each ``run`` for the run's own, or a name, and settings after commas: ``grpo,kl_weight=0.1``. A name of
            :data:`PAPER` has its settings. The run's own and those of the paper where not given.
        step: Look into the trajectories of this training step; else into the last that have the id.
        file: Look into this file of trajectories instead.
        weights: Folder of π: a model or a checkpoint; else the run's last checkpoint.
        overrides: Of the run's config, as ``model.device=cpu``.

    Raises:
        FileNotFoundError: No such run or file, or a run without trajectories or weights.
        ValueError: An unknown trajectory, method or setting, or what has no token ids.
    """
    folder = RunFolder(run)
    config = load_config(folder.config, overrides)
    chosen = choose_methods(config, methods)
    path, place, group = find(folder, trajectory, step=step, file=file)
    everyone = [entry for entry in group.trajectories if entry.sampled_tokens]
    ours = next(entry for entry in group.trajectories if entry.id == trajectory)
    if not all(entry.trainable for entry in group.trajectories):
        raise ValueError(
            f"{path}: trajectory {trajectory} or one of its group has no token ids, as a hosted model gives none, and "
            "without them there are no log-probabilities"
        )
    if ours not in everyone:
        raise ValueError(f"{path}: trajectory {trajectory} has no sampled tokens ({ours.error or ours.stop_reason})")
    scoring = store.read_scoring(path)
    if scoring is None:
        raise ValueError(f"{path} does not say how its trajectories were scored: an older grpo-agents wrote it")
    temperature = config.rollout.temperature
    if place["phase"] == "eval":
        temperature = config.eval.temperature or 1.0
    policy, beside = find_weights(folder, weights)
    learner, reference, notes = make_learner(config, policy, beside, temperature)
    if beside is None or learner.critic is None:
        unvalued = "V = 0: no critic is kept with these weights"
    else:
        unvalued = ""
    before, said = find_old(config, folder, place)
    notes += [said] if said else []
    rows = score(learner, everyone, None if before is None else load_old(config, before))
    readings = {}
    for name, method in chosen.items():
        try:
            assign(group, method, config.advantage, scoring)
        except ValueError as error:
            if methods is not None or name == OWN:
                raise
            notes.append(f"{name} is left out: {error}")
            continue
        reading = read(learner, method, everyone, rows, ours, place["run_step"] / config.train.steps)
        unweighed = "π_old/π_sampler = 1" if method.corrects_sampler and before is None else ""
        notes_of = [reading.note, unvalued if method.critic is not None else "", unweighed]
        readings[name] = replace(reading, note="; ".join(filter(None, notes_of)))
    table = make_table(place, ours, rows[everyone.index(ours)], readings, load_tokenizer(config.model))
    return Explanation(ours, path, policy, reference, len(group.trajectories), readings, notes, table)


# What is asked for


def choose_methods(config: Config, asked: Sequence[str] | None) -> dict[str, Method]:
    """The methods by what they are called: as they were asked for.

    Raises:
        ValueError: An unknown method or setting; names the nearest.
    """
    return {text: _method(config, text) for text in asked or (OWN, *PAPER)}


def _method(config: Config, text: str) -> Method:
    name, *settings = text.split(",")
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"method {text!r}: write its settings as {name},key=value,key=value")
        try:
            given[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            given[key.strip()] = value.strip()
    start = config.method if name == OWN else {"name": name, **PAPER.get(name, {})}
    return make_method({**start, **given})


# The methods


def assign(group: Group, method: Method, config: AdvantageConfig, scoring: Scoring) -> None:
    """Writes the advantages that a method gives; with demonstrations, 1 to each."""
    if method.sources[0] == "demonstrations":
        for trajectory in group.trajectories:
            trajectory.advantage = 1.0
            for step in trajectory.steps:
                step.advantage = 0.0
    else:
        assign_advantages([group], scoring.vector, config, scoring.maxima, method)


def read(
    learner: Learner,
    method: Method,
    trajectories: Sequence[Trajectory],
    rows: Sequence[Sequence[Scored]],
    ours: Trajectory,
    progress: float,
) -> Reading:
    """The coefficients of one method, whose advantages are assigned, on the tokens of one trajectory of the group."""
    batch = make_batch(trajectories)
    mine = [row for row in batch.rows if row.name == ours.id]
    if not mine:
        none = np.zeros(ours.sampled_tokens)
        note = f"trajectory {ours.id} takes no part"
        return Reading(method, np.full(len(none), math.nan), none, 1, none.astype(bool), note)
    scored = {(entry.row.name, entry.row.sample): entry for part in rows for entry in part}
    found = []
    for row in batch.rows:
        entry = scored[row.name, row.sample]
        kept = np.isin(entry.row.trained, row.trained)  # all but turns that are left out (advantage.drop)
        row.old = entry.row.old[kept]
        row.reference = None if entry.row.reference is None else entry.row.reference[kept]
        row.values = np.zeros(len(row.trained)) if entry.row.values is None else entry.row.values[kept]
        found.append(entry.logprobs[kept])
    assign_credit(batch, method)
    logprobs = torch.from_numpy(np.concatenate(found))  # (tokens,)
    values = torch.from_numpy(np.concatenate([row.values for row in batch.rows if row.values is not None]))
    tokens = learner.tokens(batch.rows, Forward(logprobs, torch.zeros_like(logprobs), values), batch, progress)
    own = (tokens.trajectory == mine[0].trajectory).numpy()  # (tokens,)
    none = torch.zeros(len(logprobs), dtype=torch.bool)
    clipped = method.is_clipped(tokens) if isinstance(method, Grpo) else none
    units = int(tokens.group.max()) + 1 if method.unit == "group" else batch.trajectories
    learned = {row.sample: row.trained for row in mine}
    kept = np.concatenate(
        [np.isin(np.flatnonzero(s.mask), learned.get(number, [])) for number, s in enumerate(ours.samples)]
    )

    def of_every_token(values: np.ndarray, otherwise: float) -> np.ndarray:
        full = np.full(len(kept), otherwise, values.dtype)
        full[kept] = values[own]
        return full

    return Reading(
        method,
        of_every_token(tokens.advantages.numpy(), math.nan),
        of_every_token(coefficients(method, tokens).numpy(), 0.0),
        units * mine[0].length,
        of_every_token(clipped.numpy(), False),
        "" if kept.all() else "turns with a call that cannot be read are not learned from",
    )


# The table


def make_table(
    place: dict[str, Any], trajectory: Trajectory, rows: Sequence[Scored], readings: dict[str, Reading], tokenizer: Any
) -> pa.Table:
    """A row a sampled token; :meth:`Explanation.save` lists the columns."""
    ids = np.concatenate([entry.row.ids[entry.row.trained] for entry in rows])
    counts = [len(entry.row.trained) for entry in rows]
    logprob = np.concatenate([entry.logprobs for entry in rows]).astype(np.float64)
    old = np.concatenate([entry.row.old for entry in rows]).astype(np.float64)
    reference = np.concatenate([entry.row.reference for entry in rows if entry.row.reference is not None], dtype=float)
    columns: dict[str, Any] = {
        **{name: [place[name]] * len(ids) for name in ("run_step", "phase", "group", "index")},
        "trajectory": [trajectory.id] * len(ids),
        "sample": np.repeat([entry.row.sample for entry in rows], counts),
        "position": np.concatenate([entry.row.trained for entry in rows]),
        "turn": np.concatenate([entry.row.turn for entry in rows]),
        "token": ids,
        "text": [tokenizer.decode([int(number)]) for number in ids],
        "length": [trajectory.sampled_tokens] * len(ids),
        "logprob": logprob,
        "old_logprob": old,
        "sampler_logprob": np.concatenate([entry.row.sampler for entry in rows]).astype(np.float64),
        "reference_logprob": reference,
        "ratio": np.exp(logprob - old),
        "kl": kl_estimate("k3", *map(torch.from_numpy, (logprob, reference, old))).numpy(),
    }
    first = next(iter(readings.values()), None)
    if first is not None:
        columns["advantage"] = first.advantages.astype(np.float64)
    for name, reading in readings.items():
        columns[name] = reading.coefficients.astype(np.float64)
        columns[f"{name}_gradient"] = reading.gradient.astype(np.float64)
        columns[f"{name}_clipped"] = reading.clipped
    about = {name: {"name": reading.method.name, **reading.method.settings()} for name, reading in readings.items()}
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return pa.table(arrays).replace_schema_metadata({b"grpo_agents.lens": json.dumps(about).encode()})
