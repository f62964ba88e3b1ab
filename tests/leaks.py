"""A key, servers that repeat it, and what finds it in all that a run says and leaves."""

import base64
import re

from fake_openai import refused

from grpo_agents import store

KEY = "sk-T0p+S3cr3t/0123456789~key"
BEARER = base64.b64encode(f"Bearer {KEY}".encode()).decode()
BASIC = base64.b64encode(f":{KEY}".encode()).decode()
ECHO = f"you said {KEY}, that is {BEARER} or {BASIC}"
HEADERS = {"authorization": f"Bearer {KEY}", "x-echo": BEARER, "www-authenticate": f'Bearer realm="{KEY}"'}


def holds_key(data):
    """Whether the key is in there, as it is or in base64."""
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    words = re.findall(r"[A-Za-z0-9+/_-]{16,}", text)
    decoded = [base64.b64decode(word[:end] + "===", altchars=b"-_" if {*word} & {*"-_"} else None)
               for word in words for end in (len(word), len(word) // 4 * 4)
               if len(word[:end]) % 4 != 1]  # fmt: skip
    return KEY in text or any(KEY.encode() in found for found in decoded)


def leaks(folder):
    """The files below a folder with the key in their names or in what they hold."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return [file for file in files if holds_key(str(file)) or any(map(holds_key, contents(file)))]


def contents(file):
    yield file.read_bytes()
    if file.suffix == ".parquet":  # what is in there is compressed
        yield from (repr(read(file)) for read in (store.read, store.read_groups, store.read_scoring))


TRAINED = """
run = "runs/a"
model.path = "start"
env.id = "grpo_agents/Orchestra-v0"
rewards.vector = "liked.py:vector"
rollout = { group_size = 2, max_turns = 2, max_turn_tokens = 6 }
engine.patience = 0.2
train = { steps = 2, batch = 2 }
eval = { every = 2, tasks = 2 }
[models.judge]
backend = "hosted"
server = { url = "URL", model = "m" }
"""

LIKED = """
import sys, traceback
from grpo_agents import RewardVector, component

@component(direction="max")
async def liked(trajectory, judge):
    try:
        answer = await judge.complete([{"role": "user", "content": "Is it good? " + trajectory.final}])
    except Exception:
        traceback.print_exc()
        raise
    print("the judge says", answer.text, file=sys.stderr)
    if "fail" in answer.text:
        raise ValueError(answer.text)
    return float(len(answer.text) % 7)

vector = RewardVector(["outcome", liked, "cost", "latency"])
"""


def said(text):
    message = {"role": "assistant", "content": text, "reasoning_content": text}
    call = {"id": text, "type": "function", "function": {"name": text, "arguments": f'{{"question": "{text}"}}'}}
    return {"choices": [{"message": message | {"tool_calls": [call]}, "finish_reason": "stop"}], "id": text}


ANSWERS = {
    "an answer": (200, said(ECHO), HEADERS),
    "401": refused(401, ECHO, code=KEY, param=KEY),
    "401 of headers": (401, {"error": ECHO}, HEADERS),
    "403 as text": (403, ECHO.encode(), {"content-type": "text/plain"}),
    "400": refused(400, ECHO, param=BEARER),
    "404": refused(404, ECHO),
    "429": refused(429, ECHO),
    "500": refused(500, ECHO),
    "500 nested": (500, {"detail": [{"loc": [KEY], KEY: {"msg": BEARER}}]}),
    "no JSON": ECHO.encode(),
    "another JSON": {"echo": {KEY: [ECHO]}},
    "a list": [ECHO],
    "no choices": {"choices": [], "error": ECHO},
}


def served(answer):
    return lambda path, body: answer
