"""What tests of the learner share."""

import pytest


class Gradient(Exception):
    pass


def gradients(learner, batch, progress=0.0):
    """The gradient of one update, which is not made, by parameter."""
    found = {}

    def catch(_):
        found.update({name: value.grad.clone() for name, value in learner.optimizer.named.items()})
        raise Gradient

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner.optimizer, "step", catch)
        with pytest.raises(Gradient):
            learner.update(batch, progress)
    for value in learner.optimizer.named.values():
        value.grad = None
    return found
