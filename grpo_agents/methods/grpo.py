"""Group relative policy optimisation (DeepSeekMath, arXiv 2402.03300); its relatives are the files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from grpo_agents.advantage import Scores
from grpo_agents.methods import importance
from grpo_agents.methods.baselines import centred, whitened
from grpo_agents.methods.method import Episode, Method, Tokens
from grpo_agents.methods.surrogate import Aggregation, Kl, aggregate, clipped, kl_estimate

if TYPE_CHECKING:
    import torch


class Grpo(Method):
    """The clipped surrogate with asymmetric ε, a KL term in the loss or in the reward, and an entropy bonus.

    Per token: −w min(ρ Â, clip(ρ, 1−ε_low, 1+ε_high) Â) + β KL − bonus · H, with ρ = π/π_old, and w = 1 or what
    ``tis`` or ``mis`` make of π_old/π_sampler; summed as ``aggregation`` says. Â is R − mean R over the group, divided
    as ``scale`` says; with process supervision the sum of the normalised rewards of this turn and all later ones.

    Attributes:
        pushes: What the surrogate gives to a token's coefficient, in words.
    """

    name: ClassVar[str] = "grpo"
    pushes: ClassVar[str] = "ρ Â, 0 where the clip holds"

    scale: Literal["group", "batch", "none"] = Field(
        default="group",
        description="What R − mean R is divided by: the group's standard deviation, the batch's, or nothing.",
    )
    supervision: Literal["outcome", "process"] = Field(
        default="outcome",
        description="outcome: one reward for the whole episode; process: the rewards of single turns, normalised over "
        "all turns of the group, each turn getting the sum of its own and all later ones.",
    )
    resample: int = Field(
        default=0,
        ge=0,
        description="Up to so many times, groups of which nothing would be learned give way to newly sampled ones "
        "(DAPO's dynamic sampling).",
    )
    clip_low: float = Field(default=0.2, ge=0, lt=1, description="ε below: ρ is clipped at 1 − clip_low.")
    clip_high: float = Field(default=0.2, ge=0, description="ε above: ρ is clipped at 1 + clip_high (DAPO: 0.28).")
    dual_clip: float | None = Field(
        default=None, gt=1, description="Largest ρ that a negative advantage counts (3 is usual, ToolOrchestra: 10)."
    )
    tis: float | None = Field(
        default=None,
        gt=0,
        description="Weigh each token by π_old/π_sampler, at most this (2.0 is usual): truncated importance sampling, "
        "for an engine whose policy differs from the learner's. Needs learner.old_logprobs = 'recompute'.",
    )
    mis: float | None = Field(
        default=None, gt=0, description="As tis, but what is above (or below importance_low) has no gradient at all."
    )
    importance_low: float = Field(default=0.0, ge=0, description="The lower bound of tis or mis.")
    importance_level: importance.Level = Field(
        default="token", description="Whether tis or mis weigh single tokens or whole trajectories."
    )
    off_policy_mask: float | None = Field(
        default=None,
        ge=0,
        description="Drop what has Â < 0 of trajectories whose mean of log π_sampler/π is above this (DeepSeek-V3.2).",
    )
    kl_weight: float = Field(
        default=0.0, ge=0, description="β of the KL term against the reference policy; 0 needs no reference."
    )
    kl: Kl = Field(
        default="k3",
        description="The estimator: k1 = log(π/π_ref), k2 = ½ log²(π/π_ref), k3 = π_ref/π − log(π_ref/π) − 1, "
        "unbiased = ρ·k3 with the gradient through ρ (DeepSeek-V3.2).",
    )
    kl_in: Literal["loss", "reward"] = Field(
        default="loss",
        description="reward: Â of each token is less β times the KL of itself and all later ones, so that earlier "
        "tokens answer for it.",
    )
    reference_every: int | None = Field(
        default=None, ge=1, description="The policy becomes the reference every so many steps (iterative GRPO)."
    )
    aggregation: Aggregation = Field(
        default="sequence",
        description="token: Σ/Σ|o| (DAPO); sequence: mean over trajectories of Σ/|o| (GRPO); "
        "constant: Σ/(trajectories · max_length) (Dr. GRPO). All over the global batch.",
    )
    max_length: int | None = Field(default=None, ge=1, description="L_max of aggregation 'constant'.")
    entropy_bonus: float = Field(default=0.0, ge=0, description="Reward for entropy, in the loss.")
    entropy_tokens: int | None = Field(
        default=None, ge=1, description="Only on the first tokens of each turn; all where not set."
    )
    entropy_until: float = Field(
        default=1.0, gt=0, le=1, description="The bonus falls linearly to 0 at this share of the run; 1 keeps it level."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Grpo:
        if (self.aggregation == "constant") != (self.max_length is not None):
            raise ValueError("aggregation = 'constant' and max_length go together: set both or neither")
        if self.tis is not None and self.mis is not None:
            raise ValueError("tis and mis exclude each other: cut weights, or drop what they are too large for")
        cap = self.tis if self.tis is not None else self.mis
        if self.importance_low > (cap or 0):
            raise ValueError(
                f"importance_low = {self.importance_low:g} is the lower bound of the weights of tis or mis, "
                + ("and neither is set" if cap is None else f"and above the upper one, {cap:g}")
            )
        if self.kl_weight and self.kl_in == "loss" and self.kl == "k1":
            raise ValueError(
                "kl = 'k1' in the loss has no gradient in expectation, as E[∇ log π] = 0: set kl_in = 'reward', or "
                "another estimator"
            )
        if self.kl_in == "reward" and self.kl == "unbiased":
            raise ValueError("kl = 'unbiased' is a gradient's estimator, for the loss: in the reward use 'k1'")
        if self.reference_every is not None and not self.kl_weight:
            raise ValueError("reference_every moves a reference that nothing reads: set kl_weight, too")
        return self

    @property
    def formula(self) -> str:
        """What the surrogate gives, and the KL term."""
        if not self.kl_weight or self.kl_in == "reward":
            return self.pushes
        kl = {"k1": "− β", "k2": "− β log(π/π_ref)", "k3": "+ β(π_ref/π − 1)", "unbiased": "− βρ log(π/π_ref)"}
        return f"{self.pushes}; {kl[self.kl]}"

    # What it asks for

    @property
    def unit(self) -> Literal["token", "trajectory", "group"]:
        """Trajectories where something is decided for a whole one."""
        corrected = self.corrects_sampler and self.importance_level == "sequence"
        return "trajectory" if corrected or self.off_policy_mask is not None else "token"

    @property
    def needs_reference(self) -> bool:
        """True with a KL term."""
        return self.kl_weight > 0

    @property
    def most_resamples(self) -> int:
        """``resample``."""
        return self.resample

    @property
    def reference_period(self) -> int | None:
        """``reference_every``."""
        return self.reference_every

    @property
    def corrects_sampler(self) -> bool:
        """True with ``tis`` or ``mis``."""
        return self.tis is not None or self.mis is not None

    @property
    def weighs_by_ratio(self) -> bool:
        """True."""
        return True

    def entropy_weight(self, progress: float) -> float:
        """The bonus at this point of the run."""
        if self.entropy_until == 1:
            return self.entropy_bonus
        return self.entropy_bonus * max(0.0, 1 - progress / self.entropy_until)

    def gradient_only_from_advantages(self, progress: float) -> bool:
        """True where nothing but the surrogate has a gradient."""
        return not self.needs_reference and self.critic is None and self.entropy_weight(progress) == 0

    # From rewards to advantages

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """R − mean R, divided as ``scale`` says; 0 with process supervision, where turns have their own."""
        if self.supervision == "process":
            return [np.zeros(len(group.returns)) for group in groups]
        return self.normalised([group.returns for group in groups])

    def turn_advantages(self, groups: Sequence[Scores]) -> list[list[np.ndarray]] | None:
        """With process supervision: of every turn, its normalised reward and those of all later turns."""
        if self.supervision == "outcome":
            return None
        rewards = [np.concatenate(group.turns) for group in groups]
        compared = [len(group.returns) > 1 for group in groups]  # a rollout alone is compared with nobody
        normal = self.normalised(
            [values if several else np.zeros_like(values) for values, several in zip(rewards, compared, strict=True)]
        )
        return [
            [np.cumsum(turns[::-1])[::-1] for turns in np.split(values, np.cumsum([len(t) for t in group.turns])[:-1])]
            for values, group in zip(normal, groups, strict=True)
        ]

    def normalised(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each array less its mean, divided as ``scale`` says."""
        found = [centred(array, divide_by_std=self.scale == "group") for array in values]
        return whitened(found, centre=False) if self.scale == "batch" else found

    def credit(self, episodes: Sequence[Episode]) -> None:
        """With ``kl_in = "reward"``: Â_t − β Σ_{s ≥ t} KL_s."""
        if self.kl_weight and self.kl_in == "reward":
            for episode in episodes:
                episode.advantages = episode.advantages - np.cumsum(self.kl_reward(episode)[::-1])[::-1]

    def kl_reward(self, episode: Episode) -> np.ndarray:
        """β times the KL of each token, which the reward is less by, (tokens,)."""
        import torch

        assert episode.reference is not None
        old, reference = torch.from_numpy(episode.old).double(), torch.from_numpy(episode.reference).double()
        return self.kl_weight * kl_estimate(self.kl, old, reference, old).numpy()

    # The objective

    def loss(self, tokens: Tokens) -> torch.Tensor:
        """The loss of these tokens as their share of the global batch's."""
        per_token = -self.surrogate(tokens)  # (tokens,)
        if self.corrects_sampler:
            per_token = per_token * self.sampler_weights(tokens)
        if self.off_policy_mask is not None:
            per_token = per_token * importance.on_policy_mask(tokens, self.off_policy_mask)
        if self.kl_weight and self.kl_in == "loss":
            assert tokens.reference is not None
            per_token = per_token + self.kl_weight * kl_estimate(self.kl, tokens.logprobs, tokens.reference, tokens.old)
        bonus = self.entropy_weight(tokens.progress)
        if bonus:
            entropy = tokens.entropy
            if self.entropy_tokens is not None:
                entropy = entropy * (tokens.turn_position < self.entropy_tokens)
            per_token = per_token - bonus * entropy
        return aggregate(per_token, tokens, self.aggregation, self.max_length)

    def surrogate(self, tokens: Tokens) -> torch.Tensor:
        """What is maximised at each token, before weights, KL and entropy, (tokens,)."""
        return clipped(self.ratio(tokens), tokens.advantages, self.clip_low, self.clip_high, self.dual_clip)

    def ratio(self, tokens: Tokens) -> torch.Tensor:
        """The ratio ρ = π/π_old of each token, (tokens,)."""
        return (tokens.logprobs - tokens.old).exp()

    def sampler_weights(self, tokens: Tokens) -> torch.Tensor:
        """The weight of each token against a sampler that is not π_old, (tokens,)."""
        weights = importance.weights(tokens, self.importance_level)
        if self.tis is not None:
            return importance.truncated(weights, self.importance_low, self.tis)
        assert self.mis is not None
        return importance.masked(weights, self.importance_low, self.mis)

    def figures(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """``clipped``: 1 where the clip takes the gradient away. With ``tis``, its weight, and 1 where that is cut."""
        figures = {"clipped": self.is_clipped(tokens).float()}
        if self.corrects_sampler:
            name = "tis" if self.tis is not None else "mis"
            weights = self.sampler_weights(tokens)
            figures[f"{name}/weight"] = weights
            figures[f"{name}/cut"] = (weights != importance.weights(tokens, self.importance_level)).float()
        if self.off_policy_mask is not None:
            figures["off_policy"] = 1 - importance.on_policy_mask(tokens, self.off_policy_mask)
        return figures

    def is_clipped(self, tokens: Tokens) -> torch.Tensor:
        """Where the clip takes the gradient away, (tokens,)."""
        ratio = self.ratio(tokens)
        above = (tokens.advantages > 0) & (ratio > 1 + self.clip_high)
        below = (tokens.advantages < 0) & (ratio < 1 - self.clip_low)
        if self.dual_clip is not None:
            below = below | ((tokens.advantages < 0) & (ratio > self.dual_clip))
        return above | below
