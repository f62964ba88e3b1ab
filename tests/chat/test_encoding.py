"""Pieces encoded on their own are the whole, whatever a tokenizer does at the start of a text or next to a token."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from grpo_agents.chat.encoding import Encoding

WORDS = ["a", " b", "  ", "\n", "\n\n", "é", "e\u0301", "7", "<", "|", "system", " the answer", "<tool>", "<|end|", ""]
TOKENS = ["<|end|>", "<|start|>", "<s>"]
BYTES = pre_tokenizers.ByteLevel.alphabet()

CORES = {
    "byte level": (pre_tokenizers.ByteLevel(add_prefix_space=False), None),
    "byte level with a prefix space": (pre_tokenizers.ByteLevel(add_prefix_space=True), None),
    "metaspace at the start": (pre_tokenizers.Metaspace(prepend_scheme="first"), None),
    "metaspace everywhere": (pre_tokenizers.Metaspace(prepend_scheme="always"), None),
    "metaspace nowhere": (pre_tokenizers.Metaspace(prepend_scheme="never"), None),
    "prepending normalizer": (None, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
    "normal form and strip": (
        pre_tokenizers.Whitespace(),
        normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]),
    ),
}


class Wrapped:
    """What Encoding takes of a Hugging Face tokenizer."""

    def __init__(self, core):
        self.backend_tokenizer = core


def make_core(kind="byte level", tokens=TOKENS):
    pre_tokenizer, normalizer = CORES[kind]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    if pre_tokenizer is not None:
        core.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        core.normalizer = normalizer
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<unk>"], initial_alphabet=[*BYTES, "▁", "\n"], show_progress=False
    )
    core.train_from_iterator(["system user the answer is <tool> 42 a b\n\n"] * 9, trainer)
    core.add_special_tokens(tokens)
    core.add_tokens(["<tool>"])
    return core


def texts(tokens=TOKENS, count=300):
    rng = np.random.default_rng(0)
    choices = np.array([*WORDS, *tokens, *tokens], object)
    return ["".join(rng.choice(choices, size=rng.integers(0, 12))) for _ in range(count)]


@pytest.mark.parametrize("kind", CORES)
def test_pieces_are_the_whole(kind):
    core = make_core(kind)
    encoding = Encoding(Wrapped(core))
    assert encoding._cuts is not None
    for text in texts():
        assert encoding.encode(text).tolist() == core.encode(text, add_special_tokens=False).ids, repr(text)
        behind = core.encode("<|end|>" + text, add_special_tokens=False).ids
        assert encoding.encode(text, after="<|end|>").tolist() == behind[1:], repr(text)


@pytest.mark.parametrize(
    "odd",
    [
        AddedToken("<odd>", lstrip=True),
        AddedToken("<odd>", rstrip=True),
        AddedToken("<odd>", single_word=True),
        AddedToken("<odd>", normalized=True),
        AddedToken("b<|end|>"),
        AddedToken("<|end|>\n"),
        AddedToken("a<s", lstrip=True),
    ],
    ids=str,
)
def test_tokens_that_reach_beyond_themselves_change_nothing(odd):
    tokens = [*TOKENS, odd]
    core = make_core(tokens=tokens)
    encoding = Encoding(Wrapped(core))
    for text in texts([*TOKENS, odd.content]):
        assert encoding.encode(text).tolist() == core.encode(text, add_special_tokens=False).ids, repr(text)


def test_a_tokenizer_that_does_not_cut_at_its_tokens_is_given_whole_texts():
    core = make_core()
    core.encode_special_tokens = True
    encoding = Encoding(Wrapped(core))
    assert encoding._cuts is None
    for text in texts():
        assert encoding.encode(text).tolist() == core.encode(text, add_special_tokens=False).ids


def test_only_what_is_new_of_a_prompt_is_encoded():
    encoding = Encoding(Wrapped(make_core()))
    system = "<|start|>system\nthe answer<|end|>\n"
    encoding.encode(system + "<|start|>user\na<|end|>\n")
    before = encoding._piece.cache_info().misses
    encoding.encode(system + "<|start|>user\nb<|end|>\n")
    assert encoding._piece.cache_info().misses == before + 1


def test_padding_and_truncation_that_someone_left_behind_are_undone():
    core = make_core()
    encoding = Encoding(Wrapped(core))
    expected = core.encode("system user").ids
    core.enable_truncation(1)
    core.enable_padding(length=50)
    assert encoding.encode("system user").tolist() == expected
    core.enable_truncation(1)
    assert encoding.encode_with_spans("system user")[0].tolist() == expected
