"""Weights that one process sends to many at once: all of them arrive as they were, or everybody is told."""

import socket
import threading

import pytest
import torch

from grpo_agents.cluster.transfer import TransferFailed, receive, send

NAMED = {
    "layer.weight": torch.linspace(-1, 1, 35).reshape(5, 7),
    "layer.bias": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "scale": torch.tensor(3.0),
    "sheared": torch.arange(12.0).reshape(3, 4).T,  # not contiguous
}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def together(meet, *ranks, size):
    """What each rank receives while the weights are sent; or the error."""
    found = {}

    def take(rank):
        try:
            found[rank] = receive(meet, rank, size, 20.0)
        except TransferFailed as error:
            found[rank] = error

    threads = [threading.Thread(target=take, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    return threads, found


def test_everybody_receives_what_is_sent():
    meet = ("127.0.0.1", free_port())
    threads, found = together(meet, 1, 2, 3, size=4)
    send(NAMED, meet, 4, 20.0)
    for thread in threads:
        thread.join(20)
    for rank in (1, 2, 3):
        assert list(found[rank]) == list(NAMED)
        for name, value in NAMED.items():
            assert found[rank][name].dtype == value.dtype
            assert torch.equal(found[rank][name], value)


def test_who_waits_for_one_that_never_comes_is_told():
    meet = ("127.0.0.1", free_port())
    threads, found = together(meet, 1, size=3)
    with pytest.raises(TransferFailed, match="the weights could not be sent to 2 workers: "):
        send(NAMED, meet, 3, 1.0)
    for thread in threads:
        thread.join(30)
    assert isinstance(found[1], TransferFailed)


def test_a_sender_that_never_comes_is_said():
    with pytest.raises(TransferFailed, match="the weights did not come: "):
        receive(("127.0.0.1", free_port()), 1, 2, 1.0)
