"""What a policy sees."""

import re
import textwrap

from snippets import failure

from grpo_agents.sandbox import Result


def test_output_errors_and_value_are_told_apart(sandbox):
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n{'a': 6 * 7}"
    result = sandbox.run(code)
    assert result == Result("out\n", "err\n", "{'a': 42}", stdout_bytes=4, stderr_bytes=4)
    assert str(result) == "stdout:\nout\nstderr:\nerr\nvalue:\n{'a': 42}"
    assert str(sandbox.run("x = 1")) == "no output"
    assert sandbox.run("None").value is None
    assert sandbox.run("").value is None
    assert sandbox.run("'\\ud800', chr(0x1F600)").value == "('\\ud800', '😀')"


def test_a_traceback_shows_the_snippet_alone(sandbox):
    result = sandbox.run(
        "def half(n):\n    return n / 0\n\ntry:\n    half(3)\nexcept ZeroDivisionError:\n    {}['there']"
    )
    assert "return n / 0" in result.stderr
    assert "During handling of the above exception" in result.stderr
    assert failure(result) == "KeyError: 'there'"
    assert not re.search(r"snippet\.py|supervisor|grpo_agents", result.stderr)
    assert set(re.findall(r'File "(.*?)"', result.stderr)) == {"<call 1>"}
    assert failure(sandbox.run("x = = 1")) == "SyntaxError: invalid syntax"
    assert "null bytes" in failure(sandbox.run("x\0"))
    assert failure(sandbox.run("def f(): f()\nf()")).startswith("RecursionError")
    assert "surrogates not allowed" in failure(sandbox.run("'\ud800'"))
    assert "Error" in failure(sandbox.run("(" * 100_000))


def test_output_is_bounded(sandbox):
    result = sandbox.run("import sys\nprint('a' * 10**6)\nsys.stderr.write('b' * 10**6 + 'end')\n'c' * 10**6")
    assert result.stdout == "a" * 2000
    assert (result.stdout_bytes, result.stderr_bytes) == (10**6 + 1, 10**6 + 3)
    assert result.stderr == "b" * 1997 + "end"
    assert result.value == "'" + "c" * 1999 + " … (cut)"
    assert "stdout (the first 2000 of 1000001 bytes):" in str(result)
    assert sandbox.run("import os; os.write(1, b'\\xff\\x00') and None").stdout == "\ufffd\x00"


def test_a_snippet_finds_an_interpreter_that_was_just_started(sandbox):
    code = """
    import os, pickle, random, sys, tempfile, subprocess
    from dataclasses import dataclass
    @dataclass
    class Point:
        x: int
    assert pickle.loads(pickle.dumps(Point(3))) == Point(3)
    assert os.listdir() == [] and __name__ == "__main__" and sys.argv == [""] and sys.stdin.read() == ""
    assert os.path.dirname(tempfile.mkdtemp()) == os.getcwd() == os.environ["HOME"]
    assert "grpo_agents" not in sys.modules and "supervisor" not in sys.modules
    print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout)
    open("helper.py", "w").write("number = 7")
    import helper
    assert helper.number == 7
    random.random()
    """
    first, second = sandbox.run(textwrap.dedent(code)), sandbox.run(textwrap.dedent(code))
    assert (first.stderr, first.stdout.strip()) == ("", "42")
    assert first.value != second.value  # random numbers are no copies
    assert sandbox.run("import numpy, sympy\nnumpy.ones(3).sum(), sympy.Integer(3)").value == "(np.float64(3.0), 3)"
