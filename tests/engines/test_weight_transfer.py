"""The calls that vLLM's trainer-side API makes, with stand-ins for what needs a GPU: no tensor is moved."""

import types

import pytest
import torch
from fake_openai import refused, serving

from grpo_agents.engines.openai_client import Trouble
from grpo_agents.engines.server.weight_transfer import WeightTransfer

pytestmark = pytest.mark.vllm

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
INIT, START, UPDATE, FINISH = (
    "/init_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update")  # fmt: skip


def accepting(path, body):
    return {}


@pytest.fixture
def no_nccl(monkeypatch):
    """What goes over NCCL, instead of NCCL."""
    from vllm.distributed.weight_transfer import nccl_engine

    met, sent = [], []

    def meet(info):
        met.append(info)
        return types.SimpleNamespace(destroy=lambda: met.append("destroyed"))

    def broadcast(iterator, post_iter_func, **options):
        sent.extend((item[0], post_iter_func(item)) for item in iterator)

    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", meet)
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", broadcast)
    return met, sent


def test_nccl_meets_once_and_sends_each_time(no_nccl):
    met, sent = no_nccl
    with serving(accepting) as fake:
        transfer = WeightTransfer("nccl", fake.url.removesuffix("/v1"), 5)
        transfer.send(WEIGHTS, 2)
        transfer.send({"a": torch.zeros(2, 3), "b": WEIGHTS["b"]}, 2)
        assert fake.paths() == [INIT, START, UPDATE, FINISH, START, UPDATE, FINISH]
        (init,), (update, _) = fake.bodies(INIT), fake.bodies(UPDATE)
        transfer.disconnect()
        transfer.disconnect()
        transfer.send(WEIGHTS, 2)  # to a server that is another one now
        assert fake.paths()[7:] == [INIT, START, UPDATE, FINISH]
    info = init["init_info"]
    assert (info["world_size"], info["rank_offset"], info["packed"]) == (3, 1, True)
    assert (info["master_address"], info["master_port"]) == (met[0].master_address, met[0].master_port)
    assert info["master_address"] == "127.0.0.1"
    assert update["update_info"] == {
        "names": ["a", "b"], "dtype_names": ["float32", "bfloat16"], "shapes": [[2, 3], [2]]}  # fmt: skip
    assert [name for name, _ in sent] == ["a", "b"] * 3
    assert sent[0][1].tolist() == WEIGHTS["a"].tolist()
    assert sent[2][1].tolist() == [[0, 0, 0]] * 2
    assert met[1] == "destroyed"


def test_ipc_hands_over_handles(monkeypatch):
    from vllm.distributed.weight_transfer import ipc_engine

    def chunks(iterator, post_iter_func, gpu_uuid, **options):
        names = [item[0] for item in iterator]
        yield types.SimpleNamespace(
            names=names, dtype_names=["float32", "bfloat16"], shapes=[[2, 3], [2]], tensor_sizes=[24, 4],
            ipc_handle={gpu_uuid: ("handle",)},
        )  # fmt: skip

    monkeypatch.setattr(ipc_engine, "packed_ipc_producer", chunks)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(uuid="GPU-7"))
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    with serving(accepting) as fake:
        WeightTransfer("ipc", fake.url.removesuffix("/v1"), 5).send(WEIGHTS, 1)
        assert fake.paths() == [INIT, START, UPDATE, FINISH]
        assert fake.bodies(INIT) == [{"init_info": {"packed": True}}]
        (update,) = fake.bodies(UPDATE)
    assert update["update_info"]["names"] == ["a", "b"]
    assert update["update_info"]["ipc_handles_pickled"]


def test_a_server_that_does_not_go_along(no_nccl):
    with serving(lambda path, body: refused(500, "no group") if path == START else {}) as fake:
        transfer = WeightTransfer("nccl", fake.url.removesuffix("/v1"), 5)
        with pytest.raises(Trouble, match=r"the nccl weight transfer failed: 500"):
            transfer.send(WEIGHTS, 1)
