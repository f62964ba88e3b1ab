"""The Chromium that tests look at pages with: playwright's own, or else one on the PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """Where it is.

    Raises:
        ImportError: There is no playwright, or no Chromium; says what to do.
    """
    if find_spec("playwright") is None:
        raise ImportError("playwright is not installed: pip install playwright.")
    if found := next(filter(None, map(shutil.which, NAMES)), None) or _own():
        return found
    stamp = Path(sys.prefix, ".browser")  # left by setup_browser.py
    said = " ".join(stamp.read_text().split()) if stamp.exists() else "`make test` sets one up."
    raise ImportError(f"There is no Chromium: neither playwright's nor {', '.join(NAMES)} on the PATH. {said}")


def _own() -> str | None:
    """Playwright's; asked for in a process of its own, since two playwrights in one cannot be."""
    asked = (
        "from playwright.sync_api import sync_playwright as p\nwith p() as one: print(one.chromium.executable_path)"
    )
    path = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    return path if Path(path).exists() else None


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless one, as playwright's ``Browser``; a root has no sandbox in it."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
