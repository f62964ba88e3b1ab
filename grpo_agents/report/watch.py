"""Serves the page of a run that goes on: on this machine alone, and anew whenever there is more to show."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from grpo_agents.report.document import Report
from grpo_agents.report.sources import Source, find_source
from grpo_agents.writing import write_whole

LOOK = 1.0
"""Seconds between two looks for something new."""

REST = 4.0
"""A page is built again at the soonest after so many times what building it took: most of the time is the run's."""


class Watch:
    """A server of one page, and what keeps the page up to date.

    Args:
        source: What is shown; looked for again at every build, since files come as the run goes on.
        out: The file that the page is written to as well.
        limit: The most trajectories on it.
        port: Where to listen, on 127.0.0.1; 0 takes any that is free.
        say: Is told what could not be read, in words.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, source: Source, out: Path, limit: int, port: int = 0, say: Callable[[str], None] = print):
        self.path, self.out, self.limit, self.say = source.path, out, limit, say
        self.version = ""
        self.page = b""
        self._report = Report(source, limit)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="report", daemon=True)

    @property
    def port(self) -> int:
        """Where the server listens."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Watch:
        """Builds the page and begins to serve it.

        Raises:
            ValueError: Something cannot be read; says what.
        """
        self._build(find_source(self.path))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the server."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def refresh(self) -> bool:
        """Builds the page again where something has changed; says whether it did.

        What cannot be read just now, as a file that is being replaced, is said, and the page stays as it was.
        """
        try:
            source = find_source(self.path)
            return self._version(source) != self.version and self._build(source)
        except (ValueError, OSError) as error:
            self.say(f"not drawn again: {error}")
            return False

    def run(self) -> None:
        """Keeps the page up to date until Ctrl-C."""
        while True:
            began = time.monotonic()
            built = self.refresh()
            time.sleep(max(LOOK, REST * (time.monotonic() - began) if built else 0.0))

    def _build(self, source: Source) -> bool:
        version = self._version(source)  # before anything is read: what changes meanwhile is new the next time
        self._report.source = source
        page = self._report.build(version).encode()
        write_whole(self.out, page)
        self.page, self.version = page, version
        return True

    def _version(self, source: Source) -> str:
        return hashlib.sha256(repr(source.stamp()).encode()).hexdigest()[:16]


def _handler(watch: Watch) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Gives the page and its version, to this machine."""

        def do_GET(self) -> None:
            # A page elsewhere may give its own name the address 127.0.0.1 to read this one (DNS rebinding); it then
            # comes with that name.
            names = {f"{name}:{watch.port}" for name in ("127.0.0.1", "localhost")}
            if self.headers.get("Host") not in names:
                self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"this page is for 127.0.0.1 alone")
            elif self.path.partition("?")[0] == "/":
                self._answer(HTTPStatus.OK, "text/html", watch.page)
            elif self.path == "/version":
                self._answer(HTTPStatus.OK, "text/plain", watch.version.encode())
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is one page here: /")

        def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Type": f"{kind}; charset=utf-8",
                "Content-Length": str(len(content)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Content-Security-Policy": "frame-ancestors 'none'",
                "Cross-Origin-Resource-Policy": "same-origin",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing: the page asks every other second."""

    return Handler
