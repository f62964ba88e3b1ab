import pytest
import torch
from tiny import make_model, make_tokenizer


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small lose time on more; and sums are then in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def model():
    """A Qwen3 of two layers and 97 tokens; a fresh one each time."""
    return make_model()
