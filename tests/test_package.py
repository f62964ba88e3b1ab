"""What a person gets who installs the package."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import gymnasium
import pytest
from shell import CONFIG

import grpo_agents

REPOSITORY = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "vllm", "sympy", "matplotlib", "ray", "bitsandbytes")


def loaded_by(code):
    """The heavy packages that code imports in a fresh process."""
    say = f"import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{say}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[-2].split()


@pytest.mark.parametrize(
    "code",
    [
        "import grpo_agents",
        "from grpo_agents import AgentEnv, RewardVector, component, evaluate, make_env, tool",
        "import grpo_agents.rewards, grpo_agents.evaluation, grpo_agents.store, grpo_agents.cli",
        "import gymnasium, grpo_agents; gymnasium.make('grpo_agents/ToolMath-v0').reset(seed=0)",
        "import gymnasium, grpo_agents; gymnasium.make('grpo_agents/LibraryDesk-v0').reset(seed=0)",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert loaded_by(code) == []


def test_a_run_imports_what_it_was_asked_for_and_neither_ray_nor_bitsandbytes(start, tmp_path):
    settings = [f"run={tmp_path / 'run'}", f"model.path={start}", "train.steps=1"]
    (tmp_path / "config.toml").write_text(CONFIG)
    config = f"load_config({str(tmp_path / 'config.toml')!r}, {settings})"
    begin = "from grpo_agents.config import load_config; from grpo_agents.trainer import train"
    found = loaded_by(f"{begin}; train({config})")
    assert "torch" in found
    assert not {"ray", "bitsandbytes"} & set(found)


def test_every_public_name_is_there():
    namespace = {}
    exec("from grpo_agents import *", namespace)
    assert sorted(name for name in namespace if not name.startswith("__")) == sorted(grpo_agents.__all__)
    assert set(grpo_agents.__all__) <= set(dir(grpo_agents))
    with pytest.raises(AttributeError, match="'grpo_agents' has no attribute 'trane'"):
        _ = grpo_agents.trane


def test_environments_are_registered():
    names = {name for name in gymnasium.registry if name.startswith("grpo_agents/")}
    assert names >= {f"grpo_agents/{name}-v0" for name in ("Math", "ToolMath", "Orchestra", "LibraryDesk")}


def test_the_version_is_the_projects():
    assert f'version = "{grpo_agents.__version__}"' in (REPOSITORY / "pyproject.toml").read_text()


def test_no_registry_and_no_machine_is_named():
    for name in ("constraints.txt", "Makefile", ".ci/run", "pyproject.toml"):
        text = (REPOSITORY / name).read_text()
        assert not [
            word for word in ("http:", "https:", "index-url", "/work", "/home", "find-links") if word in text
        ], name


def test_the_wheel_holds_environments_rewards_templates_and_types(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, source, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    modules = {
        f"grpo_agents/{path.relative_to(REPOSITORY)}"
        for folder in ("envs", "rewards")
        for path in (REPOSITORY / folder).rglob("*.py")
    }
    page = {f"grpo_agents/report/page/{name}" for name in ("index.html", "style.css", "main.js")}
    assert names >= modules | page | {"grpo_agents/py.typed", "grpo_agents/templates/environment.py.txt"}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"grpo_agents"}
