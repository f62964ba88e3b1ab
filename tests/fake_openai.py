"""An OpenAI-compatible server for tests, of the standard library: it answers what a test tells it to."""

import json
import math
import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hang(Exception):
    """Raised by an answer: the request gets none until the server closes."""


class Drop(Exception):
    """Raised by an answer: the connection is closed."""


class FakeServer:
    """Answers ``answer(path, body)``: a payload, or (status, payload) or (status, payload, headers).

    Attributes:
        asked: Every request, as (path, body), in order.
        most: How many were being answered at once at most.
    """

    def __init__(self, answer, port=0):
        self.answer = answer
        self.asked = []
        self.most = self.now = 0
        self.closing = threading.Event()
        self.connections = []
        lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.reply(None)

            def do_POST(self):
                self.reply(json.loads(self.rfile.read(int(self.headers["content-length"])) or "null"))

            def reply(self, body):
                with lock:
                    fake.asked.append((self.path, body))
                    fake.now += 1
                    fake.most = max(fake.most, fake.now)
                try:
                    answer = fake.answer(self.path, body)
                except Drop:
                    self.close_connection = True
                    return
                except Hang:
                    fake.closing.wait(60)
                    self.close_connection = True
                    return
                finally:
                    with lock:
                        fake.now -= 1
                status, payload, headers = (*answer, {})[:3] if isinstance(answer, tuple) else (200, answer, {})
                content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def handle(self):
                fake.connections.append(self.connection)
                with suppress(OSError):  # who asked has gone
                    super().handle()

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

        self.server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def paths(self, *leaving_out):
        return [path for path, _ in self.asked if path not in leaving_out]

    def bodies(self, path):
        return [body for asked, body in self.asked if asked == path]

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        for connection in self.connections:
            with suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(answer, port=0):
    fake = FakeServer(answer, port)
    try:
        yield fake
    finally:
        fake.close()


def refused(status, message, **fields):
    """An error in OpenAI's form."""
    return status, {"error": {"message": message, "type": "x", **fields}}


def free_port():
    with serving(None) as fake:
        return fake.server.server_port


# As vLLM

MODELS = {"data": [{"id": "tiny", "max_model_len": 64}]}


def settings(mode="processed_logprobs", *, sleep=False, backend=None, device="cpu"):
    return {
        "vllm_config": {
            "model_config": {"logprobs_mode": mode, "enable_sleep_mode": sleep},
            "device_config": {"device": device},
            "weight_transfer_config": backend and {"backend": backend},
        }
    }


def sampled(body):
    """What vLLM would answer: tokens that depend on the seed alone, each with one other that could have been drawn."""
    ids = [(body["seed"] + place) % 50 for place in range(body["max_tokens"])]
    probable = [-0.5, math.log(1 - math.exp(-0.5)), *[-9999.0] * body.get("logprobs", 0)]
    most = max(1, body.get("logprobs", 0))
    likeliest = [{f"token_id:{token + n}": probable[n] for n in range(most)} for token in ids]
    logprobs = {"token_logprobs": [-0.5] * len(ids), "top_logprobs": likeliest}
    return {"choices": [{"token_ids": ids, "logprobs": logprobs, "finish_reason": "length"}]}


def vllm(complete=sampled, **others):
    """The answers of a server in development mode."""
    told = {"/collective_rpc": {}, "/update_weight_version": {}, "/reset_prefix_cache": {"success": True}}
    known = {"/v1/models": MODELS, "/server_info?config_format=json": settings(), **told, **others}

    def answer(path, body):
        if path == "/v1/completions":
            return complete(body)
        found = known.get(path, refused(404, "Not Found"))
        return found(body) if callable(found) else found

    return answer
