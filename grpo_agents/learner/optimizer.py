"""Optimisers and schedules: torch's own and an 8-bit AdamW, with states that are stored without pickle."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from grpo_agents.learner.eight_bit import adamw8bit, adamw8bit_shapes
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

    Raises:
        ValueError: ``adamw8bit`` without bitsandbytes, or of parameters of which ranks hold shards.
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
            adamw = adamw8bit if config.name == "adamw8bit" else partial(torch.optim.AdamW, fused=True)
            self._parts.append(adamw(groups, lr=config.lr, betas=config.betas))

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

    def step(self, step: int, *, moves: bool = True) -> float:
        """Clips the gradient and moves the weights; forgets the gradient also where nothing is moved.

        Nothing is by a gradient that is not finite, nor by one of zeros: moments and weight decay would move weights
        by themselves.

        Args:
            step: Counted from 0, for the schedule.
            moves: False leaves weights and moments as they are.

        Returns:
            The gradient's norm before clipping.
        """
        for part in self._parts:
            self.scaler.unscale_(part)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(list(self.named.values()), self.config.clip)))
        if moves and math.isfinite(norm) and norm > 0:
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
            f"{name}|{field}": _as_tensor(field, value)
            for name, parameter in self.named.items()
            for part in self._parts
            for field, value in part.state.get(parameter, {}).items()
        }

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what :meth:`state` gave.

        Raises:
            ValueError: It is of another model or optimiser.
        """
        owner = {
            parameter: part for part in self._parts for group in part.param_groups for parameter in group["params"]
        }
        stored: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for key, value in state.items():
            name, _, field = key.rpartition("|")
            stored[name][field] = value
        for name, fields in stored.items():
            parameter = self.named.get(name)
            if parameter is None:
                raise ValueError(f"the stored optimiser state is of another model: it has {name!r}")
            part, found = owner[parameter], {field: value.shape for field, value in fields.items()}
            if found != (wanted := _shapes(part, parameter)):
                raise ValueError(
                    f"the stored optimiser state is of another model or optimiser: of {name!r} it has "
                    f"{_written(found)}, and {type(part).__name__} keeps {_written(wanted)}"
                )
            for field, value in fields.items():
                part.state[parameter][field] = _from_tensor(value, parameter)


def _shapes(part: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> dict[str, torch.Size]:
    """The shape of everything that an optimiser keeps of a parameter."""
    own = parameter.shape
    if isinstance(part, Muon):
        return {"momentum_buffer": own}
    if isinstance(part, torch.optim.AdamW):
        return {"step": torch.Size(), "exp_avg": own, "exp_avg_sq": own}
    return adamw8bit_shapes(parameter)


def _as_tensor(field: str, value: Any) -> torch.Tensor:
    """What an optimiser keeps, as it is stored: bitsandbytes counts steps in plain numbers, and has its codes once."""
    if not isinstance(value, torch.Tensor):
        return torch.tensor(value)
    return value.clone() if field.startswith("qmap") else whole(value)


def _from_tensor(value: torch.Tensor, parameter: torch.nn.Parameter) -> Any:
    """What :func:`_as_tensor` was made of."""
    if value.ndim == 0 and not value.is_floating_point():
        return int(value)
    of_each_weight = value.shape == parameter.shape
    return (shared_as(value, parameter) if of_each_weight else value.to(parameter.device)).clone()


def _written(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{field} {tuple(shape)}" for field, shape in shapes.items())
