"""Sampling with a running ``vllm serve``: token ids in and out, every request of its own.

For evaluation the first line will do; training takes the second::

    vllm serve Qwen/Qwen3-0.6B --logprobs-mode processed_logprobs
    VLLM_SERVER_DEV_MODE=1 vllm serve Qwen/Qwen3-0.6B --logprobs-mode processed_logprobs

    # in the run's TOML
    [engine]
    backend = "server"
    patience = 120
    server.url = "http://localhost:8000/v1"
    server.sync_folder = "/scratch/this-run/weights"
    # the run starts the server itself, and starts it again when it dies or stalls
    server.command = ["env", "VLLM_SERVER_DEV_MODE=1", "vllm", "serve", "Qwen/Qwen3-0.6B",
                      "--logprobs-mode", "processed_logprobs"]

``--logprobs-mode processed_logprobs`` makes the log-probs those of the distribution that tokens are drawn from. A
server in development mode says whether it is set, and is refused where not; of another nobody can know. Development
mode opens endpoints that change the server: let nobody else reach it. ``sync_folder`` has the same path on both
machines; ``sync = "nccl"`` or ``"ipc"`` do without it (:mod:`grpo_agents.engines.server.weight_transfer`).

With ``rollout.top_k`` above 20 it wants ``--max-logprobs`` of as many: the k likeliest tokens are asked for with each
that is sampled, as what could have been sampled in its place.

A server counts as stalled when no request has been answered for ``patience`` seconds, which must therefore be longer
than the longest turn takes. On a CPU vLLM wants ``--no-enable-chunked-prefill``, as seeds crash it otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
from anyio.lowlevel import checkpoint_if_cancelled

from grpo_agents.engines import Completion, Deliver, EngineFailure, Request, Sampling, check_requests
from grpo_agents.engines.openai_client import Trouble
from grpo_agents.engines.request_loop import Job, RequestLoop
from grpo_agents.engines.server.vllm import VllmServer
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.engines.weights import Weights
from grpo_agents.support import Support, among_likeliest

AS_DRAWN = {
    "min_p": 0.0,  # this and the penalties: a model's generation_config.json may hold others
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,  # what ends a turn is for stop_token_ids to say
    "logprobs": 0,  # of the drawn token alone
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}
"""What every request asks for: nothing but the named distribution, and ids instead of text."""

JSON_FLOOR = -9999.0
"""What vLLM writes for a log-probability of −∞, of which JSON knows nothing."""


class ServerEngine:
    """Samples with a vLLM server.

    A server that came back gets the weights again: those in the folder or, where they go straight, those of now.

    Args:
        config: Which server.
        patience: Seconds without any answer after which it counts as stalled.
        restarts: How often in a row, without a completion between, it is started again or waited for.
        say: Told of each time.

    Raises:
        ValueError: A setting that is missing.
        EngineFailure: A server that is not there, does not start, is not vLLM, or lacks a flag that is needed.
    """

    lockstep = False

    def __init__(self, config: ServerConfig, *, patience: float, restarts: int, say: Callable[[str], None]):
        self._patience = patience
        self._restarts = restarts
        self._say = say
        self._failures = 0  # in a row
        self._asking = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._server = VllmServer(config, patience)
        self._requests = RequestLoop(config.concurrency)
        try:
            self._requests.wait_for(self._server.open())
        except BaseException as error:
            self.close()
            if isinstance(error, Trouble):
                raise EngineFailure(
                    f"{error}. Start the server at engine.server.url, or name what starts it, engine.server.command"
                ) from error
            raise
        self.context_length = self._server.context_length

    @property
    def version(self) -> int:
        """Version of the weights that it samples with."""
        return self._server.version

    def submit(self, requests: Sequence[Request], sampling: Sampling, deliver: Deliver) -> None:
        """Sends requests; each is delivered as it is done, on the engine's thread.

        Raises:
            ValueError: Stop texts, which the server could find in text only; or see
                :func:`~grpo_agents.engines.check_requests`.
        """
        if sampling.stop:
            raise ValueError("rollout.stop: the server engine ends a turn at a token, not at a text; leave it empty")
        check_requests(requests, self.context_length, self._requests.keys)
        jobs = []
        for request in requests:
            read = partial(_completion, request.session, sampling)
            jobs.append(Job(request.session, partial(self._ask, self._body(request, sampling), read), deliver))
        self._requests.begin(jobs)

    def release(self, sessions: Iterable[int]) -> None:
        """Aborts what is under way for episodes that have ended: the server sees the connection close."""
        self._requests.drop(sessions)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probability at temperature 1 of every token of each sequence given those before it, shape (tokens,).

        0 for the first.

        Raises:
            EngineFailure: The server refuses a sequence, or answers no more.
        """
        answers: list[Future[Any]] = [Future() for _ in sequences]
        jobs = []
        for ids, answer in zip(sequences, answers, strict=True):
            if len(ids) > 1:
                ask = partial(self._ask, self._scoring_body(ids), partial(_scores, ids[-1]))
                jobs.append(Job(answer, ask, answer.set_result))
            else:
                answer.set_result(np.zeros(len(ids), np.float32))
        self._requests.begin(jobs)
        try:
            scored = [answer.result() for answer in answers]
        finally:
            self._requests.drop(answers)
        for failure in scored:
            if isinstance(failure, EngineFailure):
                raise failure
        return scored

    def update_weights(self, weights: Weights) -> None:
        """Has the server load them and forget its prefix cache; wakes it.

        Raises:
            ValueError: Requests are under way, or no folder is named through which weights reach the server.
            EngineFailure: It did not take them.
        """
        self._check_idle("update_weights")
        self._server.keep(weights)
        self._requests.wait_for(self._insist(self._server.load))

    def sleep(self) -> None:
        """Has the server give up GPU memory, where it was started with ``--enable-sleep-mode``.

        Raises:
            ValueError: Requests are under way.
        """
        self._check_idle("sleep")
        self._requests.wait_for(self._insist(self._server.sleep))

    def wake(self) -> None:
        """Undoes :meth:`sleep`."""
        self._requests.wait_for(self._insist(self._server.wake))

    def close(self) -> None:
        """Drops what is under way, and kills a server that was started here."""
        self._requests.close(self._server.client.close)
        self._server.kill()

    def _check_idle(self, what: str) -> None:
        if under_way := self._requests.keys:
            raise ValueError(f"{what} while {len(under_way)} requests are under way: wait for them, or release them")

    # What is asked

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self._server.model,
            "prompt": list(request.ids),
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "stop_token_ids": list(sampling.stop_ids),
            **AS_DRAWN,
            "logprobs": sampling.top_k if sampling.gives_support else 0,
        }

    def _scoring_body(self, ids: Sequence[int]) -> dict[str, Any]:
        """The last token is scored as one that might come next: a full context has no room for one more."""
        *prompt, last = ids
        asked = {"prompt_logprobs": 0, "logprob_token_ids": [last], "max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
        return {"model": self._server.model, "prompt": prompt, "top_k": 0, **asked, **AS_DRAWN}

    async def _ask(self, body: dict[str, Any], read: Callable[[int, Any], Any]) -> Any:
        """One attempt at a request; ``read`` is given the version of the weights that it meets, and the answer."""
        version = self.version
        self._asking += 1
        if self._asking == 1:
            self._watch()
        try:
            answer = read(version, await self._server.client.ask("completions", body))
            self._failures = 0
            return answer
        except Trouble as trouble:
            await checkpoint_if_cancelled()  # another one has met it before
            self._interrupt(trouble)
            return None  # it was given up with all the others, and begins anew
        finally:
            self._asking -= 1
            self._watch()

    # What is done about a server in trouble

    def _watch(self) -> None:
        """Puts off the time at which the server counts as stalled."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._asking:
            silence = Trouble(f"the server has answered no request for {self._patience:g} s (engine.patience)")
            self._deadline = asyncio.get_running_loop().call_later(self._patience, self._interrupt, silence)

    def _interrupt(self, trouble: Trouble) -> None:
        """Gives up all attempts, to begin them again when the server is back."""
        self._requests.hold()
        self._restoring = asyncio.get_running_loop().create_task(self._restore(trouble))

    async def _restore(self, trouble: Trouble) -> None:
        try:
            await self._repair(trouble)
        except EngineFailure as failure:
            self._requests.fail(failure)
        except Exception as error:  # a mistake of ours: nobody awaits this task, but many wait for what it does
            self._requests.fail(EngineFailure(f"{type(error).__name__}: {error}"))
        self._requests.resume()

    async def _repair(self, trouble: Trouble) -> None:
        """Brings the server back.

        Raises:
            EngineFailure: It has been brought back too often without an answer between.
        """
        done = "started again" if self._server.is_ours else "waited for"
        while True:
            if self._failures >= self._restarts:
                self._failures = 0
                raise EngineFailure(
                    f"{trouble}. The server was {done} {self._restarts} times in a row (engine.restarts). "
                    "Its own output says more; where it is only slow, raise engine.patience"
                )
            self._failures += 1
            self._say(f"{trouble}. The server is {done} ({self._failures} of {self._restarts})")
            try:
                await self._server.revive()
            except Trouble as another:
                trouble = another
            else:
                return

    async def _insist(self, action: Callable[[], Awaitable[None]]) -> None:
        """Does something to the server, again after each time that it had to be brought back."""
        while True:
            try:
                await action()
            except Trouble as trouble:
                await self._repair(trouble)
            else:
                return


def _completion(session: int, sampling: Sampling, version: int, answer: Any) -> Completion:
    """Reads what was sampled.

    Raises:
        Trouble: Somebody has aborted it.
        EngineFailure: It is not what vLLM answers.
    """
    try:
        (choice,) = answer["choices"]
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        if len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} tokens, {len(logprobs)} log-probs")
        support = None
        if sampling.gives_support:
            support, logprobs = _support(choice["token_ids"], choice["logprobs"]["top_logprobs"])
        completion = Completion(session, ids, logprobs, choice["finish_reason"], version, support)
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(answer, error) from error
    if completion.finish_reason not in ("stop", "length"):
        raise Trouble(f"a request ended with finish reason {completion.finish_reason!r}")
    return completion


def _support(sampled: Sequence[int], likeliest: Sequence[dict[str, float]]) -> tuple[Support, list[float]]:
    """What could have been sampled instead, and the log-probs over it; of the k likeliest by their names."""
    width = 1 + max((len(entry) for entry in likeliest), default=0)
    ids = np.full((len(sampled), width), -1)
    logprobs = np.full((len(sampled), width), -np.inf)
    for row, (token, entry) in enumerate(zip(sampled, likeliest, strict=True)):
        ids[row, 0], logprobs[row, 0] = token, entry[f"token_id:{token}"]
        ids[row, 1 : 1 + len(entry)] = [int(name.removeprefix("token_id:")) for name in entry]
        logprobs[row, 1 : 1 + len(entry)] = list(entry.values())
    logprobs[logprobs <= JSON_FLOOR] = -np.inf
    support, values = among_likeliest(ids, logprobs)
    return support, values.tolist()


def _scores(last: int, _version: int, answer: Any) -> np.ndarray:
    """Reads the log-probs of a prompt's tokens and of the ``last`` one, which might come next, (tokens,)."""
    try:
        (choice,) = answer["choices"]
        given = zip(choice["prompt_token_ids"][1:], choice["prompt_logprobs"][1:], strict=True)
        prompt = [entry[str(token)]["logprob"] for token, entry in given]
        (following,) = choice["logprobs"]["top_logprobs"]
        return np.array([0.0, *prompt, following[f"token_id:{last}"]], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(answer, error) from error


def _malformed(answer: Any, error: Exception) -> EngineFailure:
    return EngineFailure(
        f"the server's answer has not the token ids and log-probs of vLLM ({type(error).__name__}: {error}): "
        f'{answer!r:.300}. The backend "server" needs `vllm serve` 0.32'
    )
