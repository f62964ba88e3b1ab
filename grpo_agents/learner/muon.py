"""torch's Muon, with its Newton–Schulz iteration in float32 where the processor has no use for bfloat16.

torch computes the iteration in bfloat16, which a CPU without bfloat16 units runs some 50 times slower than float32.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch


class Muon(torch.optim.Muon):
    """torch's Muon; on a CPU the same update in float32, matrices of one shape together."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Moves the weights; see :class:`torch.optim.Muon`."""
        if any(parameter.is_cuda for group in self.param_groups for parameter in group["params"]):
            return super().step(closure)
        assert closure is None, "a closure is not used here"
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                directions = orthogonalised(
                    torch.stack([self._momentum(parameter, group) for parameter in parameters]),
                    group["ns_coefficients"],
                    group["ns_steps"],
                    group["eps"],
                )  # (parameters, rows, columns)
                rate = group["lr"] * 0.2 * max(shape) ** 0.5  # adjust_lr_fn = "match_rms_adamw"
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-rate)
        return None

    def _momentum(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> torch.Tensor:
        """Nesterov's momentum of a gradient."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(buffer, group["momentum"])


def orthogonalised(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float
) -> torch.Tensor:
    """Newton–Schulz: about U Vᵀ of each matrix U S Vᵀ.

    Args:
        matrices: Shape (count, rows, columns), float32.
        coefficients: Of the quintic iteration.
        steps: How many iterations.
        epsilon: Least norm that is divided by.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if tall else matrices
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp_min(epsilon)
    for _ in range(steps):
        gram = found @ found.mT
        found = a * found + (b * gram + c * (gram @ gram)) @ found
    return found.mT if tall else found
