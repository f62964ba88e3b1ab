"""Optimisers and schedules: torch's own, with states that are stored without pickle."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from grpo_agents.learner.muon import Muon
from grpo_agents.learner.ranks import shared_as, whole
from grpo_agents.learner.settings import OptimizerConfig


def is_inner_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether it is a matrix inside the layers, which Muon takes."""
    return parameter.ndim == 2 and "embed" not in name and "head" not in name


class Optimizer:
    """One or two torch optimisers behind one step, with a stateless schedule and, in float16, a scaled loss.

    Args:
        named: The trained parameters by name.
        config: The settings.
        steps: How many steps the schedule spans.
        dtype: What forward passes compute in. In float16 the loss is scaled, lest small gradients become 0: by less
            after each update whose gradient overflowed, by more after many that did not.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, torch.nn.Parameter]],
        config: OptimizerConfig,
        steps: int,
        dtype: str = "float32",
    ):
        self.config = config
        self.steps = steps
        self.named = dict(named)
        matrices, others, vectors = [], [], []
        for name, parameter in self.named.items():
            inner = is_inner_matrix(name, parameter)
            (vectors if parameter.ndim < 2 else matrices if inner else others).append(parameter)
        device = next(iter(self.named.values())).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")
        self._parts: list[torch.optim.Optimizer] = []
        if config.name == "muon" and matrices:
            self._parts.append(
                Muon(matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
            )
            matrices = []
        decayed = {"params": matrices + others, "weight_decay": config.weight_decay}
        plain = {"params": vectors, "weight_decay": 0.0}
        groups = [group for group in (decayed, plain) if group["params"]]
        if groups:
            self._parts.append(torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=device == "cuda"))

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        config = self.config
        if step < config.warmup:
            return config.lr * (step + 1) / config.warmup
        if config.schedule == "constant":
            return config.lr
        done = min(1.0, (step - config.warmup) / max(1, self.steps - config.warmup))
        left = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return config.lr * (config.lr_end + (1 - config.lr_end) * left)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradient of a part of the batch's loss, scaled."""
        self.scaler.scale(loss).backward()

    def step(self, step: int) -> float:
        """Clips the gradient and moves the weights, unless the gradient is not finite; forgets it either way.

        Returns:
            The gradient's norm before clipping.
        """
        for part in self._parts:
            self.scaler.unscale_(part)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(list(self.named.values()), self.config.clip)))
        if math.isfinite(norm):
            rate = self.rate(step)
            for part in self._parts:
                for group in part.param_groups:
                    group["lr"] = rate
                part.step()
        for part in self._parts:
            part.zero_grad(set_to_none=True)
        self.scaler.update()
        return norm

    def state(self) -> dict[str, torch.Tensor]:
        """Every state tensor, whole, under ``parameter|key``."""
        return {
            f"{name}|{key}": whole(value)
            for name, parameter in self.named.items()
            for part in self._parts
            for key, value in part.state.get(parameter, {}).items()
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what :meth:`state` gave.

        Raises:
            ValueError: It is of another model or optimiser.
        """
        owner = {
            parameter: part for part in self._parts for group in part.param_groups for parameter in group["params"]
        }
        for key, value in state.items():
            name, _, field = key.rpartition("|")
            parameter = self.named.get(name)
            if parameter is None:
                raise ValueError(f"the stored optimiser state is of another model: it has {name!r}")
            fields = ("momentum_buffer",) if isinstance(owner[parameter], Muon) else ("step", "exp_avg", "exp_avg_sq")
            if field not in fields or (field != "step" and value.shape != parameter.shape):
                shape = tuple(value.shape)
                raise ValueError(f"the stored state is of another model or optimiser: {key!r} of shape {shape}")
            owner[parameter].state[parameter][field] = value if field == "step" else shared_as(value, parameter).clone()
