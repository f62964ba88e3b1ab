import copy
import os
import re

import huggingface_hub
import pytest
import torch
from tiny import copy_weights, make_model, save_start
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_agents.learner.model import (
    add_lora,
    computing_in,
    decoder_and_head,
    load_model,
    load_tokenizer,
    resolve_device,
    restore_policy,
    save_model,
)
from grpo_agents.learner.settings import LoraSettings, ModelConfig


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    save_start(folder)
    return folder


def load(start, lora=None, **settings):
    torch.manual_seed(0)
    config = ModelConfig(path=str(start), device="cpu", lora=lora, **settings)
    return load_model(config), load_tokenizer(config)


@pytest.mark.parametrize("path", ["./start", "../start", "/no/where", "~/no/where", "runs/demo/start"])
def test_a_path_that_is_no_folder_is_said_to_be_none(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looked_at = os.path.abspath(os.path.expanduser(path))
    with pytest.raises(ValueError, match=rf"^model\.path: there is no folder {re.escape(looked_at)}$"):
        load_model(ModelConfig(path=path))


def test_a_hub_id_is_not_taken_for_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = rf"model\.path 'owner/name' could not be loaded \(there is no folder {tmp_path}/owner/name, so the hub was"
    with pytest.raises(ValueError, match=said):
        load_model(ModelConfig(path="owner/name"))


def test_a_path_may_begin_at_home(start, monkeypatch):
    monkeypatch.setenv("HOME", str(start.parent))
    model = load_model(ModelConfig(path=f"~/{start.name}", device="cpu"))
    assert model.config.hidden_size == 32


def disturb(model):
    """Awkward numbers in every trained weight."""
    torch.manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) / 3)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=3)])
def test_saved_weights_come_back_bit_for_bit(start, tmp_path, lora):
    model, _ = load(start, lora)
    disturb(model)
    save_model(model, tmp_path)
    other, _ = load(start, lora)
    weights = copy_weights(model)
    assert any(not torch.equal(weights[name], value) for name, value in other.named_parameters())
    restore_policy(other, tmp_path)
    assert all(torch.equal(weights[name], value) for name, value in other.named_parameters())


def test_a_saved_policy_is_a_model_of_transformers(start, tmp_path):
    model, tokenizer = load(start)
    disturb(model)
    save_model(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(6)[None]
    assert torch.equal(found(ids).logits, model.eval()(ids).logits)
    reader = AutoTokenizer.from_pretrained(tmp_path)
    assert reader.chat_template == tokenizer.chat_template
    assert reader("47*83").input_ids == tokenizer("47*83").input_ids


def test_an_adapter_is_saved_alone_and_loads_with_peft(start, tmp_path):
    from peft import PeftModel

    model, _ = load(start, LoraSettings(rank=3))
    disturb(model)
    save_model(model, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 100_000
    found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), tmp_path)
    ids = torch.arange(6)[None]
    torch.testing.assert_close(found.eval()(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("other", [{"num_hidden_layers": 1}, {"intermediate_size": 40}, {"tie_word_embeddings": False}])
def test_weights_of_another_model_are_refused(start, tmp_path, other):
    save_start(tmp_path, **other)
    model, _ = load(start)
    with pytest.raises(ValueError, match="its weights are of another model"):
        restore_policy(model, tmp_path)
    stranger, _ = load(tmp_path)
    with pytest.raises(ValueError, match="its weights are of another model"):
        restore_policy(stranger, start)


def test_an_adapter_of_another_rank_and_a_full_model_are_refused(start, tmp_path):
    save_model(load(start, LoraSettings(rank=3))[0], tmp_path)
    with pytest.raises(ValueError, match="of another model"):
        restore_policy(load(start, LoraSettings(rank=5))[0], tmp_path)
    with pytest.raises(ValueError, match="of another model"):
        restore_policy(load(start)[0], tmp_path)
    with pytest.raises(ValueError, match="of another model"):
        restore_policy(load(start, LoraSettings(rank=3))[0], start)


def test_no_model_there(tmp_path):
    (tmp_path / "nothing-here").mkdir()
    with pytest.raises(ValueError, match=r"model\.path .*nothing-here.* could not be loaded"):
        load(tmp_path / "nothing-here")


@pytest.mark.parametrize("targets", ["nothing", ["nothing"], []])
def test_adapters_of_no_module_are_refused(targets):
    with pytest.raises(ValueError, match=r"model\.lora\.targets is .*: (Target modules|No `target_modules`)"):
        add_lora(make_model(), LoraSettings(targets=targets))


def test_a_device_that_is_not_there_is_named():
    assert resolve_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == torch.device("cpu")
        with pytest.raises(ValueError, match=r"model\.device is 'cuda:1'.*no GPU"):
            resolve_device("cuda:1")


def test_weights_are_float32_and_computing_may_be_in_bfloat16(start):
    model, _ = load(start, dtype="bfloat16")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    layer = model.model.layers[0].mlp.up_proj
    with computing_in("bfloat16", torch.device("cpu")):
        assert layer(torch.ones(1, 32)).dtype == torch.bfloat16
    with computing_in("float32", torch.device("cpu")):
        assert layer(torch.ones(1, 32)).dtype == torch.float32


def test_threads_are_set(start):
    before = torch.get_num_threads()
    try:
        load(start, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_tied_weights_stay_tied(start, tmp_path):
    model, _ = load(start)
    other = copy.deepcopy(model)
    disturb(model)
    save_model(model, tmp_path)
    restore_policy(other, tmp_path)
    assert other.lm_head.weight is other.model.embed_tokens.weight
    assert make_model().lm_head.weight.shape == (97, 32)


def test_a_model_without_a_decoder_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"^Llama4ForCausalLM is not supported: it has no decoder apart from"):
        decoder_and_head(make_model("llama4_text", num_local_experts=2))


def test_an_adapter_of_the_output_layer_is_refused():
    model = add_lora(make_model("llama"), LoraSettings(targets=["lm_head"]))
    with pytest.raises(ValueError, match=r"LlamaForCausalLM is no plain matrix.*model\.lora\.targets"):
        decoder_and_head(model)
