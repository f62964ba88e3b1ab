"""Files by others are data: none of them runs code, reaches beyond its folder, or is taken for what it is not."""

import hashlib
import json
import os
import pickle
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shell import refused
from tiny import make_tokenizer
from typer.testing import CliRunner

from grpo_agents import checkpoint, store
from grpo_agents.chat import Chat
from grpo_agents.checkpoint import MANIFEST
from grpo_agents.cli import app
from grpo_agents.schema import SCORING_KEY
from grpo_agents.trainer import resume
from grpo_agents.trajectory import Step, Trajectory
from runs import left_behind


class Bomb:
    """What leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Where nothing must have been left in the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("import os\nos.mkdir('owned')\nEvil = tools = vector = Method = None\n")
    yield tmp_path
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def run(unbroken, here):
    return shutil.copytree(unbroken, here / "run")


def seal(folder):
    """Writes the manifest of a checkpoint anew, as somebody would who wants it to be believed."""
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["itself"]
    manifest["sha256"] = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    return manifest


def write_manifest(folder, manifest):
    manifest["itself"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["optimizer.safetensors", "model/model.safetensors", "model/pytorch_model.bin"])
def test_a_pickle_in_a_checkpoint_is_not_loaded(run, unbroken, name):
    """Whatever it is called, and though its manifest fits."""
    folder = run / "checkpoints" / "step-000004"
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    write_manifest(folder, seal(folder))
    if name.endswith("bin"):
        resume(run)  # nobody reads it
        assert left_behind(run) == left_behind(unbroken)
    else:
        result = CliRunner().invoke(app, ["train", "--resume", str(run)])
        assert re.search(rf"{name}: not a file of tensors", refused(result))


def test_counts_of_a_curriculum_that_are_a_pickle(here):
    np.save("counts.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    from grpo_agents.run_state import np as loaded_with

    with pytest.raises(ValueError, match="allow_pickle=False"):
        loaded_with.load("counts.npy", allow_pickle=False)


@pytest.mark.parametrize("place", ["../../secret", "/etc/hostname", "model/../../step-000002/optimizer.safetensors"])
def test_a_manifest_that_leads_out_of_its_checkpoint(run, place):
    (run / "secret").write_text("mine")
    folder = run / "checkpoints" / "step-000004"
    manifest = seal(folder)
    manifest["sha256"][place] = hashlib.sha256(b"mine").hexdigest()
    write_manifest(folder, manifest)
    said = []
    assert checkpoint.latest(run / "checkpoints", said.append).step == 2
    assert f"manifest.json names '{place}', which is outside" in said[0]


def test_a_file_that_was_added_to_a_checkpoint(run):
    folder = run / "checkpoints" / "step-000004"
    shutil.copy(folder / "optimizer.safetensors", folder / "model" / "more.safetensors")
    said = []
    assert checkpoint.latest(run / "checkpoints", said.append).step == 2
    assert "model/more.safetensors was not written with it" in said[0]


def stored(file="some.parquet", env="grpo_agents/Math-v0", **fields):
    step = Step({"role": "assistant", "content": "5"}, rewards={"outcome": 1.0})
    task = {"question": "__import__('os').mkdir('owned')", "answer": "__import__('os').mkdir('owned')"}
    opening = ({"role": "user", "content": "{{ cycler.__init__.__globals__.os.mkdir('owned') }}"},)
    one = Trajectory(env=env, task=task, prompt=opening, steps=[step], rewards={"outcome": 1.0}, **fields)
    store.write(file, [one])
    return file


COMMANDS = (
    ("evaluate", "some.parquet"),
    ("pareto", "some.parquet"),
    ("replay", "some.parquet"),
    ("report", "some.parquet"),
    ("rescore", "some.parquet", "--reward", "outcome,length", "--out", "new.parquet"),
    ("export", "some.parquet", "--out", "some.jsonl"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("env", ["evil:Evil", "evil.py:Evil", "evil:grpo_agents/Math-v0", "grpo_agents/../evil:Evil"])
def test_a_module_that_a_trajectory_names_as_its_environment_is_not_imported(command, env, monkeypatch, here):
    monkeypatch.syspath_prepend(str(here))
    stored(env=env)
    result = CliRunner().invoke(app, command)
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


HOSTILE_OPTIONS = {
    "grpo_agents/Teacher-v0": '{ env = "evil.py:Evil" }',
    "grpo_agents/Orchestra-v0": '{ tools = "evil.py:tools" }',
    "grpo_agents/LibraryDesk-v0": '{ user = "evil:Evil" }',
}


@pytest.mark.parametrize("env", HOSTILE_OPTIONS)
@pytest.mark.parametrize("command", ["replay", "report", "evaluate"])
def test_code_that_the_config_of_a_run_names_is_not_run_to_look_at_it(command, env, here, monkeypatch):
    """The options of a built-in environment may name code as well."""
    monkeypatch.syspath_prepend(str(here))
    (here / "run" / "trajectories").mkdir(parents=True)
    stored("run/trajectories/train-000000.parquet", env=env)
    (here / "run" / "config.toml").write_text(
        f'rewards.vector = "evil.py:vector"\nmethod.name = "evil.py:Method"\n'
        f'[env]\nid = "{env}"\noptions = {HOSTILE_OPTIONS[env]}\n[model]\npath = "evil"\ntrust_remote_code = true\n'
    )
    result = CliRunner().invoke(app, [command, "run" if command != "evaluate" else "run/trajectories"])
    assert "Traceback" not in result.output
    if command == "replay":
        assert f"name code, 'evil{'' if 'Desk' in env else '.py'}:" in result.output
        assert f"add --env {env} to run it" in result.output


@pytest.mark.parametrize("value", [b"\x80\x04\x95", b'{"components": "evil:vector"}', b'["evil"]', b"null", b"\xff"])
def test_metadata_of_parquet_that_are_no_scoring(value, here):
    table = pq.read_table(stored())
    metadata = {**table.schema.metadata, SCORING_KEY: value, b"pandas": pickle.dumps(Bomb())}
    pq.write_table(table.replace_schema_metadata(metadata), "some.parquet")
    message = refused(CliRunner().invoke(app, ["evaluate", "some.parquet"]))
    assert "some.parquet" in message
    assert len(message.splitlines()) == 1


def test_a_type_of_arrow_that_would_be_unpickled(here):
    """An extension type's storage is read as what it is, and the file is refused for its columns."""
    field = pa.field("task", pa.binary(), metadata={b"ARROW:extension:name": b"arrow.py_extension_type",
                                                    b"ARROW:extension:metadata": pickle.dumps(Bomb())})  # fmt: skip
    table = pq.read_table(stored())
    at = table.schema.get_field_index("task")
    table = table.set_column(at, field, pa.array([b"{}"] * len(table), pa.binary()))
    pq.write_table(table, "some.parquet")
    CliRunner().invoke(app, ["evaluate", "some.parquet"])


ESCAPES = (
    "{{ cycler.__init__.__globals__.os.mkdir('owned') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
    "{{ messages.append(1) }}",
    "{{ (messages|attr('__class__')).__name__.foo() }}",
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_chat_template_stays_in_its_sandbox(escape):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = escape
    with pytest.raises(ValueError, match=r"chat template of \S* ?refuses a question with its answer: .*(unsafe|undef)"):
        Chat(tokenizer).start([{"role": "user", "content": "a"}], ())


def test_text_of_trajectories_is_no_template():
    tokenizer = make_tokenizer()
    text = "{{ 7 * 7 }}{% raw %}"
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
    assert text in rendered
