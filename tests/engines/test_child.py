import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import stand_ins
import torch
from processes import eventually, gone
from tiny import full_logprobs, make_model

from grpo_agents.engines import EngineFailure, Request, Sampling
from grpo_agents.engines.child import ChildEngine
from grpo_agents.engines.weights import Weights

HERE = Path(__file__).parent
SAMPLING = Sampling(stop_ids=(7,))
WEIGHTS = {}  # of models that have none


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))


@pytest.fixture
def start():
    """Starts engines, and ends them."""
    started = []

    def start(name, settings=None, **options):
        options = {"patience": 30.0, "say": lambda text: None, **options}
        started.append(ChildEngine(f"stand_ins:{name}", settings or {}, **options))
        return started[-1]

    yield start
    for engine in started:
        engine.close()


def requests(count=6, limit=12):
    return [Request(session, [session + 1, 5, 9], 100 + session, limit) for session in range(count)]


def sample(engine, asked=None):
    """What it samples, by session."""
    inbox = queue.SimpleQueue()
    asked = asked or requests()
    engine.submit(asked, SAMPLING, inbox.put)
    done = {}
    while len(done) < len(asked):
        completion = inbox.get(timeout=60)
        if isinstance(completion, EngineFailure):
            raise completion
        assert completion.session not in done
        done[completion.session] = completion
    return done


def drawn(version=0, asked=None):
    """What an engine samples that nothing happens to."""
    engine = stand_ins.Drawing()
    engine.version = version
    return sample(engine, asked)


def same(one, other):
    """The same tokens and versions, and log-probs as near as another number of threads lets them be."""
    return one.keys() == other.keys() and all(
        (one[key].ids, one[key].version) == (other[key].ids, other[key].version)
        and one[key].logprobs == pytest.approx(other[key].logprobs, abs=1e-5)
        for key in one
    )


@pytest.mark.slow
def test_a_real_model_samples_there_as_it_does_here(start):
    engine = start("tiny")
    assert same(sample(engine), sample(stand_ins.tiny()))
    assert engine.context_length == 256
    assert engine.score([[1, 2, 3]])[0][1:] == pytest.approx(full_logprobs(make_model(), [1, 2, 3]), abs=1e-5)
    other = make_model(seed=1)
    engine.update_weights(Weights(dict(other.named_parameters()), 4))
    here = stand_ins.tiny(seed=1)
    here.version = 4
    assert same(sample(engine), sample(here))
    os.kill(engine.pid, signal.SIGKILL)
    assert same(
        sample(engine), sample(here)
    )  # a new process has the weights of the last update, not those of its folder


def test_sleeping_and_waking(start):
    engine = start("Drawing")
    engine.sleep()
    assert sample(engine) == drawn(-1)
    engine.wake()
    assert sample(engine) == drawn(0)
    engine.update_weights(Weights(WEIGHTS, 5))
    engine.sleep()
    engine.wake()  # with the weights of the last update, which a sleeping engine may have given up
    assert sample(engine) == drawn(5)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("die", r"died: exit code 7\s+the last thing it says"),
        ("stall", r"made no progress for 3 s \(engine\.patience\)"),
        ("fail", "says: no memory left"),
    ],
)
def test_a_process_that_is_lost_is_started_again_and_every_request_ends_as_if_nothing_had_been(
    start, tmp_path, fault, why
):
    left, said = tmp_path / "left", []
    left.write_text("2")
    engine = start("Faulty", {"fault": fault, "left": str(left)}, patience=3.0, restarts=3, say=said.append)
    engine.update_weights(Weights(WEIGHTS, 3))
    assert sample(engine) == drawn(3)
    assert len(said) == 2
    assert re.search(why, said[0])
    assert "It is started again (1 of 3 in a row), with the weights of now; " in said[0]
    assert "(2 of 3 in a row)" in said[1]


def test_restarts_are_counted_anew_after_a_completion(start, tmp_path):
    left, said = tmp_path / "left", []
    engine = start("Faulty", {"fault": "die", "left": str(left)}, restarts=1, say=said.append)
    for _ in range(2):
        left.write_text("1")
        assert sample(engine) == drawn()
    assert ["(1 of 1 in a row)" in text for text in said] == [True, True]


def test_one_that_works_for_long_is_left_alone(start, tmp_path):
    left, said = tmp_path / "left", []
    left.write_text("1")
    engine = start("Faulty", {"fault": "slow", "left": str(left)}, patience=2.0, say=said.append)
    assert sample(engine) == drawn()
    assert said == []


def test_one_that_was_killed_from_outside_in_mid_batch(start, tmp_path):
    left, said = tmp_path / "left", []
    left.write_text("1")
    engine = start("Faulty", {"fault": "stall", "left": str(left)}, say=said.append)
    threading.Timer(0.5, os.killpg, (engine.pid, signal.SIGKILL)).start()
    assert sample(engine) == drawn()
    assert "died: signal SIGKILL" in said[0]


def test_one_that_was_stopped_from_outside_counts_as_stalled(start):
    engine = start("Drawing", patience=2.0)
    os.kill(engine.pid, signal.SIGSTOP)
    assert sample(engine) == drawn()


def test_one_that_dies_while_nothing_is_to_do_is_started_when_something_is(start):
    said = []
    engine = start("Drawing", say=said.append)
    os.kill(engine.pid, signal.SIGKILL)
    time.sleep(1.0)
    assert said == []
    assert sample(engine) == drawn()
    assert len(said) == 1


def test_weights_that_are_not_taken_in_time_are_sent_to_a_new_process_and_then_it_is_an_error(start):
    engine = start("Deaf", patience=2.0, restarts=1)
    with pytest.raises(EngineFailure, match=r"started again 1 times without.*no progress for 2 s"):
        engine.update_weights(Weights(WEIGHTS, 1))
    with pytest.raises(EngineFailure, match="started again 1 times"):
        engine.submit(requests(), SAMPLING, print)


def test_one_that_cannot_be_started_any_more_fails_every_request(start, tmp_path):
    engine = start("DyingLater", {"once": str(tmp_path / "once")}, restarts=2)
    inbox = queue.SimpleQueue()
    engine.submit(requests(3), SAMPLING, inbox.put)
    failures = [inbox.get(timeout=60) for _ in range(3)]
    assert {str(failure) for failure in failures} == {
        "the engine was started again 2 times without a completion between (engine.restarts); lastly its process died: "
        "exit code 4"
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [("Refusing", "the engine's process says: there is no model nowhere/at-all"),
     ("Dying", r"the engine's process died: exit code 3\s+out of memory")],
)  # fmt: skip
def test_an_engine_that_cannot_be_made_says_why(name, message):
    with pytest.raises(ValueError, match=message):
        ChildEngine(f"stand_ins:{name}", {})


@pytest.mark.parametrize(
    ("request_", "message"),
    [(Request(0, [], 1, 5), "the prompt is empty"), (Request(0, [1], 1, 0), "max_tokens is 0"),
     (Request(0, [1] * 250, 1, 7), "exceed the model's context of 256")],
)  # fmt: skip
def test_requests_that_cannot_be_met_are_refused_at_once(start, request_, message):
    engine = start("Drawing")
    with pytest.raises(ValueError, match=message):
        engine.submit([request_], SAMPLING, print)
    assert sample(engine) == drawn()


def test_what_the_engine_refuses_over_there_is_said_and_nothing_is_started_again(start):
    said = []
    engine = start("Drawing", say=said.append)
    with pytest.raises(ValueError, match="no weight 'nothing'"):
        engine.update_weights(Weights({"nothing": torch.zeros(1)}, 1))
    assert said == []


def test_released_episodes_are_not_delivered_and_keep_nobody_from_new_weights(start, tmp_path):
    left = tmp_path / "left"
    left.write_text("1")
    engine, inbox = start("Faulty", {"fault": "slow", "left": str(left)}), queue.SimpleQueue()
    engine.submit(requests(2), SAMPLING, inbox.put)
    with pytest.raises(ValueError, match="requests are under way"):
        engine.update_weights(Weights(WEIGHTS, 1))
    engine.release([0, 1])
    engine.update_weights(Weights(WEIGHTS, 1))
    assert sample(engine) == drawn(1)
    assert inbox.qsize() <= 1  # what was done before the release


def test_closing_ends_the_process(start):
    engine = start("Drawing")
    pid = engine.pid
    engine.close()
    assert gone(pid)


def test_the_process_ends_with_its_parent_however_that_ends():
    script = (
        "import os, signal; from grpo_agents.engines.child import ChildEngine; "
        "engine = ChildEngine('stand_ins:Drawing', {}); "
        "print(engine.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert eventually(lambda: gone(int(done.stdout)), 20)
