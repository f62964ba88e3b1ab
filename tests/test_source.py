"""What the source does not do: run what is data, wait by a clock that people set. Read from its syntax."""

import ast
from pathlib import Path

import pytest
from tiny import REPOSITORY

PACKAGES = ("grpo_agents", "envs", "rewards")

OWN_CODE = "what a person names in a config or on the command line, and a module or file of theirs"
PIPE = "the pipe between this program and its own child, which no other process can open"
RUNS_CODE = {
    ("grpo_agents/__init__.py", "import_module"): "its own modules, by a table in the source",
    ("grpo_agents/methods/__init__.py", "importlib.import_module"): "its own modules, those of the folder",
    ("grpo_agents/tasks.py", "importlib.import_module"): OWN_CODE,
    ("grpo_agents/tasks.py", "importlib.util.spec_from_file_location"): OWN_CODE,
    ("grpo_agents/tasks.py", "datasets.load_dataset"): "a data set that a config names; without trust_remote_code",
    ("grpo_agents/worker_process.py", "importlib.import_module"): "what the caller of the pool names in its source",
    ("grpo_agents/engines/child.py", "importlib.import_module"): PIPE,
    ("grpo_agents/engines/child.py", "Connection"): PIPE,
    ("grpo_agents/sandbox/snippet.py", "compile"): "the sandbox: within its walls this is the purpose",
    ("grpo_agents/sandbox/snippet.py", "exec"): "the sandbox",
    ("grpo_agents/sandbox/snippet.py", "eval"): "the sandbox",
    ("grpo_agents/report/document.py", "import jinja2.Environment"): "the page's own template, with escaping on",
}
"""Where code is run that is not in the file, by what, and whose code it is."""

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "import_module", "importlib.import_module", "Connection"),
    *("importlib.util.spec_from_file_location", "importlib.util.module_from_spec", "runpy.run_path", "sympify"),
    *("runpy.run_module", "torch.load", "os.system", "os.popen", "sympy.sympify", "parse_expr", "sympy.parse_expr"),
    *("shutil.unpack_archive", "lambdify", "sympy.lambdify"),
    *("datasets.load_dataset", "load_dataset", "subprocess.getoutput", "subprocess.getstatusoutput"),
}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code"}
FORBIDDEN_MODULES |= {
    "tarfile",
    "zipfile",
    "runpy",
    "torch.package",
    "torch.serialization",
    "jinja2.Environment",
    "jinja2.Template",
}
SAME = {"importlib.util.module_from_spec": "importlib.util.spec_from_file_location"}

CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow", "date.today"}
CLOCKS |= {"datetime.date.today", "datetime.today", "time.localtime", "time.gmtime"}
SHOWS_TIME = {("grpo_agents/summary_writer.py", "time.time"): "what TensorBoard shows, and the name of the file"}


def sources():
    files = sorted({file.resolve() for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py")})
    assert len(files) > 150
    for file in files:
        yield str(file.relative_to(REPOSITORY)), ast.parse(file.read_text(encoding="utf-8"))


def calls(tree):
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def given(call, name):
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), None)


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def runs_code(tree):
    """By what a file runs code that is not in it."""
    for name, call in calls(tree):
        constant = bool(call.args) and isinstance(call.args[0], ast.Constant)
        if name in FORBIDDEN and not (name.endswith("import_module") and constant):
            yield SAME.get(name, name)
        if name in ("np.load", "numpy.load") and given(call, "allow_pickle") != "False":
            yield "np.load without allow_pickle=False"
        if given(call, "shell") not in (None, "False"):
            yield f"{name} with a shell"
        if name.split(".")[-1] in ("from_pretrained", "from_config"):
            trusts = given(call, "trust_remote_code")
            if trusts not in ("False", "config.trust_remote_code") and "AdapterConfig" not in name:
                yield f"{name} with trust_remote_code={trusts}"
    yield from (f"import {name}" for name in imported(tree) if name in FORBIDDEN_MODULES)


def test_no_data_is_run_as_code():
    """But for what is listed, each with whose code it is; and nothing is listed that is not there."""
    found = {(file, what) for file, tree in sources() for what in runs_code(tree)}
    assert found == RUNS_CODE.keys()


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from torch import load, serialization",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "importlib.import_module(stored)",
        "eval(text)",
        "AutoModel.from_pretrained(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "from yaml import load",
    ],
)
def test_the_rule_sees(code):
    assert list(runs_code(ast.parse(code)))


def test_nothing_waits_by_the_time_of_day():
    """That jumps when somebody, or a server of time, sets it: deadlines and durations are monotonic."""
    found = {(file, name) for file, tree in sources() for name, _ in calls(tree) if name in CLOCKS}
    assert found == SHOWS_TIME.keys()


def test_clocks_are_called_by_their_whole_names():
    """So that the rule above sees each."""
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {alias.name for alias in node.names} & {"time", "time_ns"}, file


def test_the_page_escapes_what_it_is_given():
    text = Path(REPOSITORY, "grpo_agents/report/document.py").read_text()
    (call,) = [call for name, call in calls(ast.parse(text)) if name == "Environment"]
    assert given(call, "autoescape") == "True"
