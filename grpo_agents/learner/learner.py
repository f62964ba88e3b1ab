"""The update: log-probabilities of a batch's tokens, a method's loss over them, and one step of the optimiser."""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from grpo_agents.learner import mismatch, saved, skipping
from grpo_agents.learner.batch import Batch, Row, assign_credit, check_ids, with_advantage
from grpo_agents.learner.critic import Critic
from grpo_agents.learner.forward import Forward, ForwardPass, prepare
from grpo_agents.learner.model import save_model
from grpo_agents.learner.optimizer import Optimizer
from grpo_agents.learner.packing import Unit, deal
from grpo_agents.learner.ranks import Ranks, collective, whole
from grpo_agents.learner.settings import LearnerConfig
from grpo_agents.learner.skipping import NonFinite, Skip, finite
from grpo_agents.methods import Method, Tokens
from grpo_agents.methods.method import SourceKind
from grpo_agents.methods.surrogate import kl_estimate


class Learner:
    """Holds the policy, and where the method wants them a critic and a frozen reference; moves the first two.

    Args:
        model: The policy.
        config: The settings.
        method: What to learn.
        source: Where batches come from.
        steps: Updates in the whole run, for the schedule.
        temperature: What the engine divides logits by, and so the learner.
        dtype: What forward passes compute in.
        largest_mismatch: How far the engine's log-probabilities may be from the learner's, on average over a batch.
        largest_kl_old: An update is not made where KL(π_old‖π) over its tokens is above this.
        ranks: The processes that share it; each makes one with the same arguments.

    Attributes:
        why_padded: Why what rows have in common is computed for each of them, or nothing where it is computed once.
        not_finite: What was not finite in the batch that was learned last, and of which trajectory; or nothing.

    Raises:
        ValueError: The architecture's log-probabilities cannot be computed from hidden states and output layer alone;
            nothing of the model is to be trained; or the optimiser cannot be had.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: LearnerConfig,
        method: Method,
        *,
        source: SourceKind = "policy",
        steps: int,
        temperature: float = 1.0,
        dtype: str = "float32",
        largest_mismatch: float = math.inf,
        largest_kl_old: float = math.inf,
        ranks: Ranks | None = None,
    ):
        if not any(value.requires_grad for value in model.parameters()):
            raise ValueError(
                "there is nothing to train: no parameter of the model takes a gradient. Load an adapter as trainable, "
                "and set requires_grad of what is to be learned"
            )
        self.model = model
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.why_padded = prepare(model)
        self.ranks = ranks or Ranks()
        self.config = config
        self.method = method
        self.source = source
        self.temperature = temperature
        self.dtype = dtype
        self.largest_mismatch = largest_mismatch
        self.largest_kl_old = largest_kl_old
        self.updates = 0
        self.not_finite = ""
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self._adapter = hasattr(model, "peft_config")
        if method.reference_period is not None and self._adapter:
            raise ValueError(
                "method.reference_every: with model.lora the reference is the base model, which stays as it is. "
                "Leave one of them out."
            )
        self.critic = Critic(model, method.critic) if method.critic is not None else None
        self.reference = copy.deepcopy(model).eval() if method.needs_reference and not self._adapter else None
        self._policy_pass = self._reference_pass = ForwardPass(
            model, temperature, dtype, shares=self.shares_prefixes, critic=self.critic
        )
        layers = frozenset(model._no_split_modules or ())
        self.ranks.shard(self._policy_pass, layers)
        if self.reference is not None:  # without one it is the policy, its adapter left out
            self._reference_pass = ForwardPass(self.reference, temperature, dtype, shares=self.shares_prefixes)
            self.ranks.shard(self._reference_pass, layers)
        named = dict(model.named_parameters())
        if self.critic is not None:
            named |= {f"critic.{name}": value for name, value in self.critic.named_parameters()}
        trained = [(name, value) for name, value in named.items() if value.requires_grad]
        self.optimizer = Optimizer(trained, config.optimizer, steps, dtype)

    @property
    def shares_prefixes(self) -> bool:
        """Whether what rows have in common is computed once."""
        return not self.why_padded

    @collective
    def learn(self, batch: Batch, *, version: int, progress: float, seed: int = 0) -> dict[str, float]:
        """All updates on a batch; each of them is a step of the schedule, also where it is skipped.

        Args:
            batch: The rows and normalisers.
            version: Of the weights before it.
            progress: How far the run is, 0…1.
            seed: Of dropout, where there is any.

        Returns:
            Figures of the last update, and those of :func:`grpo_agents.learner.mismatch.compare`; and how many updates
            were ``skipped/…``, and what for (see :data:`~grpo_agents.learner.skipping.Skip`), where any were.

        Raises:
            ValueError: The engine's log-probabilities are off, or see :meth:`prepare`; then nothing was moved.
        """
        torch.manual_seed(seed)
        self._renew_reference(version)  # due whatever the batch holds
        self.not_finite = ""
        if not batch.rows:
            return self._all_skipped("no_gradient")
        try:
            self.prepare(batch)
        except NonFinite as error:
            self.not_finite = str(error)
            return self._all_skipped("non_finite")
        figures: dict[str, float] = {}
        skipped: Counter[str] = Counter()
        for number in range(self.config.updates):
            found = self.update(batch, progress, version if number == 0 else None)
            skipped.update(name for name in found if name.startswith("skipped/"))
            figures |= found
        return figures | {name: float(count) for name, count in skipped.items()}

    def _all_skipped(self, why: Skip) -> dict[str, float]:
        self.updates += self.config.updates
        return {f"skipped/{why}": float(self.config.updates)}

    def prepare(self, batch: Batch) -> None:
        """Fills in log π_old, log π_ref and values where they are asked for, then Â of single tokens, once a batch.

        Raises:
            ValueError: A token id that the model does not have, or rows that do not fit ``max_tokens``.
            NonFinite: A log-probability, a value or an advantage is; says which, and of which trajectory.
        """
        check_ids(batch.rows, self.vocabulary)
        skipping.check_sampled(batch.rows)
        skipping.check_credit(batch.rows)
        recompute = self.config.old_logprobs == "recompute" and self.source not in ("demonstrations", "pairs")
        if recompute or self.critic is not None:
            for row, logprobs, values in self._score(self._policy_pass, batch.rows):
                row.old = finite(logprobs, "log π_old, as the learner computes it,", row) if recompute else row.old
                row.values = None if values is None else finite(values, "a value of the critic", row)
        if self.method.needs_reference:
            with self.model.disable_adapter() if self._adapter else nullcontext():  # type: ignore[operator]
                for row, logprobs, _ in self._score(self._reference_pass, batch.rows, values=False):
                    row.reference = finite(logprobs, "log π_ref, as the learner computes it,", row)
        assign_credit(batch, self.method)
        skipping.check_credit(batch.rows)

    @collective
    def score(self, rows: Sequence[Row]) -> list[tuple[Row, np.ndarray]]:
        """Log π of each row's trained tokens under the policy, (trained,), without a gradient; in no order.

        Raises:
            ValueError: As :meth:`prepare`.
            NonFinite: A log-probability of the engine is.
        """
        check_ids(rows, self.vocabulary)
        skipping.check_sampled(rows)
        return [(row, logprobs) for row, logprobs, _ in self._score(self._policy_pass, rows, values=False)]

    @collective
    def weights(self) -> dict[str, torch.Tensor]:
        """The policy's parameters by name: live ones, or copies in main memory where ranks hold shards."""
        return {name: whole(value.detach()) for name, value in self.model.named_parameters()}

    @collective
    def save_policy(self, folder: Path) -> None:
        """Writes the policy's weights for ``from_pretrained``."""
        save_model(self.model, folder, writes=self.ranks.rank == 0)

    @property
    def counts(self) -> dict[str, Any]:
        """What a checkpoint notes beside the files, plain JSON; ``not_finite`` is for callers in other processes."""
        scaler = self.optimizer.scaler.state_dict()
        return {"updates": self.updates, "scaler": scaler, "not_finite": self.not_finite}

    @collective
    def save(self, folder: Path) -> None:
        """Writes what moves into a checkpoint's folder."""
        saved.save(self, folder)

    @collective
    def restore(self, folder: Path, counts: Mapping[str, Any]) -> None:
        """Brings back what was saved; see :func:`grpo_agents.learner.saved.restore`."""
        saved.restore(self, folder)
        self.updates = counts["updates"]
        if counts.get("scaler"):
            self.optimizer.scaler.load_state_dict(counts["scaler"])

    def _renew_reference(self, version: int) -> None:
        """Makes the policy its own reference every so many steps, where the method says so (iterative GRPO)."""
        period = self.method.reference_period
        if self.reference is not None and period is not None and version and version % period == 0:
            self.reference.load_state_dict(self.model.state_dict())  # shard by shard, where there are ranks

    def update(self, batch: Batch, progress: float, version: int | None = None) -> dict[str, float]:
        """One update on the whole batch, whatever its micro-batches.

        Args:
            batch: The rows and normalisers.
            progress: How far the run is, 0…1.
            version: Of the weights, at the first update on a batch: there they are those that the engine's
                log-probabilities can be compared at.

        Returns:
            Figures: loss, grad_norm, lr; tokens that were computed, and over them the means of entropy, ratio π/π_old,
            kl_old (k3 of π_old and π) where the method weighs by that ratio, kl (k3) where there is a reference, and
            the method's own; at the first update those of :func:`grpo_agents.learner.mismatch.compare`, too; and
            ``skipped/…`` = 1 where it was not made, and what for.

        Raises:
            ValueError: The engine's log-probabilities are off; then nothing was moved.
        """
        rows = batch.rows
        if self.method.gradient_only_from_advantages(progress):
            rows = with_advantage(rows)
        entropy_gradient = self.method.entropy_weight(progress) > 0
        sums: dict[str, float] = defaultdict(float)
        compared: list[tuple[np.ndarray, ...]] = []
        culprits: list[str] = []
        self._policy_pass.train()
        for part, counts in self._passes(self._deal(rows, self.method.unit)):
            found = self._policy_pass(part, entropy_gradient=entropy_gradient)
            tokens = self.tokens(part, found, batch, progress)
            loss = self.method.loss(tokens)
            self.optimizer.backward(loss if counts else 0 * loss)
            if counts:
                sums["loss"] += (own := loss.item())
                if not math.isfinite(own):
                    culprits += skipping.culprits(part, tokens)
                self._add_figures(sums, tokens)
                if version is not None and self.source == "policy":
                    compared.append(self._compared(part, tokens, version))
        figures = _means(self.ranks.gather(sums))
        compared, culprits = (
            list(chain.from_iterable(some)) for some in zip(*self.ranks.gather((compared, culprits)), strict=True)
        )
        if compared:
            figures |= mismatch.compare(*map(np.concatenate, zip(*compared, strict=True)))
            mismatch.check(figures, self.largest_mismatch)  # before anything is moved by it
        figures["lr"] = self.optimizer.rate(self.updates)
        scale = self.optimizer.scaler.get_scale()
        if self.optimizer.scaler.is_enabled():
            figures["loss_scale"] = scale
        far = not figures.get("kl_old", 0.0) <= self.largest_kl_old  # or not a number
        moves = bool(rows) and not culprits and not far
        figures["grad_norm"] = norm = self.optimizer.step(self.updates, moves=moves) if rows else 0.0
        self.updates += 1
        skip: Skip | None = None
        if culprits or not (math.isfinite(norm) or scale > 1):
            skip, self.not_finite = "non_finite", skipping.in_words(culprits)
        elif far:
            skip = "ratio"
        elif not math.isfinite(norm):
            skip = "loss_scale"
        elif norm == 0:
            skip = "no_gradient"
        return figures if skip is None else {**figures, f"skipped/{skip}": 1.0}

    def _passes(self, shares: list[list[list[Row]]]) -> Iterator[tuple[list[Row], bool]]:
        """This rank's micro-batches, and whether each counts: ranks pass forward equally often, some to no end."""
        own = shares[self.ranks.rank]
        yield from ((part, True) for part in own)
        yield from ((shares[0][-1], False) for _ in range(max(map(len, shares)) - len(own)))

    def _deal(self, rows: Sequence[Row], unit: Unit = "token") -> list[list[list[Row]]]:
        return deal(rows, self.config.max_tokens, unit, self.ranks.size, shares=self.shares_prefixes)

    def _score(
        self, forward: ForwardPass, rows: Sequence[Row], *, values: bool = True
    ) -> Iterator[tuple[Row, np.ndarray, np.ndarray | None]]:
        """Log π of each row's trained tokens and, with a critic, the values before them; without a gradient."""
        shares = self._deal(rows)
        forward.eval()
        own: list[tuple[np.ndarray, np.ndarray | None]] = []
        for part, counts in self._passes(shares):
            with torch.no_grad():
                found = forward(part, values=values)
            if counts:
                cuts = np.cumsum([len(row.trained) for row in part])[:-1]
                logprobs = np.split(found.logprobs.cpu().numpy(), cuts)
                expected = [None] * len(part) if found.values is None else np.split(found.values.cpu().numpy(), cuts)
                own += zip(logprobs, expected, strict=True)
        for parts, results in zip(shares, self.ranks.gather(own), strict=True):
            yield from ((row, *result) for row, result in zip(chain.from_iterable(parts), results, strict=True))

    def tokens(self, rows: Sequence[Row], found: Forward, batch: Batch, progress: float) -> Tokens:
        """What a method's loss reads of some rows: side by side, with the normalisers of the whole batch."""

        def of_all(values: Sequence[np.ndarray], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(values)).to(found.logprobs.device, dtype)

        def where_known(values: Sequence[np.ndarray | None]) -> torch.Tensor | None:
            known = [array for array in values if array is not None]
            return of_all(known) if len(known) == len(values) else None

        def numbered(numbers: Sequence[int]) -> torch.Tensor:
            """Which of the different numbers each token's row has, counted from 0 as they come."""
            places = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
            counts = [len(row.trained) for row in rows]
            return of_all([np.repeat([places[number] for number in numbers], counts)], torch.int64)

        return Tokens(
            logprobs=found.logprobs,
            sampler=of_all([row.sampler for row in rows]),
            old=of_all([row.old for row in rows]),
            reference=where_known([row.reference for row in rows]),
            entropy=found.entropy,
            advantages=of_all([row.advantages for row in rows]),
            lengths=of_all([np.repeat(row.length, len(row.trained)) for row in rows]),
            turn_position=of_all([row.turn_position for row in rows], torch.int64),
            trajectory=numbered([row.trajectory for row in rows]),
            group=numbered([row.group for row in rows]),
            batch_tokens=batch.tokens,
            batch_trajectories=batch.trajectories,
            progress=progress,
            values=found.values,
            old_values=where_known([row.values for row in rows]),
            returns=where_known([row.returns for row in rows]),
        )

    def _add_figures(self, sums: dict[str, float], tokens: Tokens) -> None:
        """Adds up what is reported about tokens; nothing here reaches the loss."""
        with torch.no_grad():
            per_token = {"entropy": tokens.entropy, **self.method.figures(tokens)}
            if self.source not in ("demonstrations", "pairs"):
                per_token["ratio"] = (tokens.logprobs - tokens.old).exp()
                if self.method.weighs_by_ratio:
                    per_token["kl_old"] = kl_estimate("k3", tokens.old, tokens.logprobs, tokens.old)
            if tokens.reference is not None:
                per_token["kl"] = kl_estimate("k3", tokens.logprobs, tokens.reference, tokens.old)
            sums["tokens"] += len(tokens.logprobs)
            for name, values in per_token.items():
                sums[name] += float(values.sum())

    def _compared(self, rows: Sequence[Row], tokens: Tokens, version: int) -> tuple[np.ndarray, ...]:
        """What :func:`grpo_agents.learner.mismatch.compare` takes, of some rows; without dropout where it can."""
        own = tokens.old if self.config.old_logprobs == "recompute" else tokens.logprobs.detach()
        staleness = version - np.concatenate([row.version for row in rows])
        return own.cpu().numpy(), np.concatenate([row.sampler for row in rows]), staleness


def _means(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the tokens of all ranks; loss and tokens are sums."""
    sums: dict[str, float] = defaultdict(float)
    for own in ranks:
        for name, value in own.items():
            sums[name] += value
    count = max(1.0, sums["tokens"])
    return {name: value if name in ("loss", "tokens") else value / count for name, value in sums.items()}
