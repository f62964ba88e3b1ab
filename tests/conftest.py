import os
import sys
from pathlib import Path

import pytest
import torch
from browser import chromium, find_chromium
from tiny import DEMO, make_model, make_tokenizer, save_start

from grpo_agents.config import load_config
from grpo_agents.engines.vllm import check_version
from runs import grpo

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tests tell nobody that they ran


def no_vllm():
    """Why there is no vLLM for tests here, or an empty string."""
    try:
        check_version()
    except ImportError as error:
        stamp = Path(sys.prefix, ".vllm")  # left by setup_vllm.py
        said = stamp.read_text() if stamp.exists() else "`make test` sets it up."
        return f"{error}. {' '.join(said.split())}"
    return ""


def no_browser():
    """Why there is no Chromium for tests here, or an empty string."""
    try:
        find_chromium()
    except ImportError as error:
        return str(error)
    return ""


MARKERS = {"vllm": no_vllm, "browser": no_browser}


def pytest_runtest_setup(item):
    """Tests marked `vllm` or `browser` are skipped where it is missing, or fail where GRPO_AGENTS_REQUIRE_… is set."""
    for marker, why_not in MARKERS.items():
        if item.get_closest_marker(marker) and (why := why_not()):
            if os.environ.get(f"GRPO_AGENTS_REQUIRE_{marker.upper()}") == "1":
                pytest.fail(why, pytrace=False)
            pytest.skip(why)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small lose time on more; and sums are then in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; for a module only, since while there is one the thread has an event loop running."""
    with chromium() as one:
        yield one


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def model():
    """A Qwen3 of two layers and 97 tokens; a fresh one each time."""
    return make_model()


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """The run folder of a short warm start: a model that has learned the form of a dialogue, and little else."""
    from grpo_agents.trainer import train

    root = tmp_path_factory.mktemp("warm")
    save_start(root / "start", scale=0.1)
    settings = {
        "run": root / "sft",
        "model.path": root / "start",
        "source.path": f"{DEMO / 'demonstrations.py'}:demonstrate",
        "train.steps": 60,
        "train.batch": 16,
        "train.save_every": 30,
        "learner.optimizer.warmup": 5,
        "eval.every": 60,
        "eval.tasks": 8,
    }
    return train(load_config(DEMO / "sft.toml", [f"{key}={value}" for key, value in settings.items()]))


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A model from scratch."""
    folder = tmp_path_factory.mktemp("start")
    save_start(folder, scale=0.1)
    return folder


@pytest.fixture(scope="session")
def unbroken(warm, tmp_path_factory):
    """The run folder of a short run that nothing disturbed."""
    from grpo_agents.trainer import train

    return train(grpo(tmp_path_factory.mktemp("unbroken") / "run", warm))
