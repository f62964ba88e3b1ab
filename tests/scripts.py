"""Programs of examples/ as modules, for tests that call what they have."""

import importlib.util
import sys

from tiny import REPOSITORY


def script(path):
    """The module of a file of examples/."""
    file = REPOSITORY / "examples" / path
    spec = importlib.util.spec_from_file_location(f"examples_{file.parent.name}_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module
