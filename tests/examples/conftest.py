"""What tests of the examples share."""

import pytest
from test_chat import make_tokenizer as make_qwen_tokenizer
from tiny import make_model


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A Qwen3 of two layers with a Qwen3-style chat template."""
    folder = tmp_path_factory.mktemp("stand-in")
    tokenizer = make_qwen_tokenizer("qwen3")
    make_model(vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
