"""Sets up Chromium for the tests of pages; `make test` does so once.

One on the PATH will do, else playwright downloads its own. Where it cannot, this says why and goes on. What happened is
kept in `.browser` in the environment's folder, and tests that are left out for want of a browser quote it.
"""

import subprocess
import sys
from pathlib import Path

from browser import find_chromium


def main() -> None:
    """Finds or fetches one, and leaves the stamp."""
    stamp = Path(sys.prefix, ".browser")
    stamp.unlink(missing_ok=True)
    try:
        said = f"{find_chromium()} is there."
    except ImportError:
        print("Setting up Chromium for the tests, once.", flush=True)
        command = [sys.executable, "-m", "playwright", "install", "chromium"]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        last = [line for line in done.stdout.splitlines() if line.strip()][-3:]
        said = (
            "\n".join(["Chromium was not set up: `playwright install chromium` cannot fetch it. It says:", *last])
            if done.returncode
            else "Set up playwright's Chromium."
        )
    print(said)
    stamp.write_text(f"{said}\n")


if __name__ == "__main__":
    main()
