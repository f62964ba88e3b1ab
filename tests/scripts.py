"""Programs of examples/ as modules, for tests that call what they have."""

import importlib.util
import sys

from tiny import REPOSITORY


def script(path):
    """The module of a file of examples/; what it imports from its folder are its own, whatever else has their names."""
    file = REPOSITORY / "examples" / path
    spec = importlib.util.spec_from_file_location(f"examples_{file.parent.name}_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    beside = {other.stem for other in file.parent.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in beside & sys.modules.keys()}
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
        for name in beside & sys.modules.keys():
            del sys.modules[name]
        sys.modules.update(others)
    return module
