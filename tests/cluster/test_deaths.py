"""Actors that cannot begin, or die: what a run says of it, from what Ray does say then."""

import os
import signal
import sys
import threading
import time
from functools import partial

import pytest
import ray
from ray.exceptions import RayError

from grpo_agents.cluster import learner
from grpo_agents.cluster.deaths import reason_of, unloadable
from grpo_agents.cluster.learner import RemoteLearner
from grpo_agents.cluster.pool import Pool
from grpo_agents.cluster.settings import ClusterConfig
from grpo_agents.engines import EngineFailure
from grpo_agents.learner.ranks import RankLost

LACKED = """
class Actor:
    def start(self): ...
    def place(self): ...

class Thing: ...
"""


@pytest.fixture(scope="module", autouse=True)
def _ray():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def lacked(tmp_path, monkeypatch):
    """A module that this process has, and no process of Ray."""
    (tmp_path / "lacked_there.py").write_text(LACKED)
    monkeypatch.syspath_prepend(tmp_path)
    import lacked_there

    yield lacked_there
    del sys.modules["lacked_there"]


@ray.remote(num_cpus=0, max_restarts=0)
class Mortal:
    def start(self):
        raise SystemExit(3)

    def place(self):
        raise SystemExit(3)

    def take(self, thing): ...

    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)


@ray.remote(num_cpus=0)
class Raising:
    """Raises what cannot be made again from its message, and does not even pickle where it holds a lock."""

    def __init__(self, locked):
        self.lock = threading.Lock() if locked else None

    def start(self):
        class Trouble(Exception):
            def __init__(self, one, other, lock):
                super().__init__(f"{one}\nand {other}")
                self.lock = lock

        raise Trouble("no shop", "no goods", self.lock)

    place = start


@ray.remote(num_cpus=0)
class Pair:
    """One of two ranks: in the second call it dies, soon, or misses the other one, at once."""

    def __init__(self, dies):
        self.dies = dies
        self.number = None

    def place(self):
        return "", 0

    def start(self, config, rank, meet, mark):
        self.number = rank
        return {"why_padded": "", "dtype": "float32", "temperature": 1.0, "counts": {}}

    def call(self, name, *args, **settings):
        if self.dies == 0:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("Connection closed by peer")

    def follow(self):
        if self.dies == 0:
            raise RuntimeError("Connection closed by peer")
        time.sleep(1)
        if self.dies == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def error_of(reference):
    with pytest.raises(RayError) as caught:
        ray.get(reference)
    return caught.value


CANNOT = (
    r"the machine [\d.]+ cannot load the code \(.*No module named 'lacked_there'\)\. Install grpo-agents with the same "
    r"versions on every machine of the cluster$"
)


@pytest.fixture
def pool_of():
    """A pool of one worker, of which none is replaced; and what it says."""
    pools = []

    def make(kind, **settings):
        config = ClusterConfig(kind="ray", workers=1, **settings)
        made, said = [], []

        def another(number):
            made.append(number)
            return getattr(kind, "remote", kind)()

        pools.append(Pool(another, (), config, at_once=1, most_hanging=1, patience=60.0, say=said.append))
        return pools[-1], made, said

    yield make
    for pool in pools:
        pool.close()


def test_a_worker_whose_machine_lacks_the_package_ends_the_run_at_once(lacked, pool_of):
    pool, made, said = pool_of(ray.remote(num_cpus=0)(lacked.Actor))
    with pytest.raises(ValueError, match=rf"^rollout worker 0: {CANNOT}"):
        pool.context_length()
    assert (made, said) == ([0], [])


def test_a_rank_whose_machine_lacks_it_too(lacked):
    with pytest.raises(ValueError, match=rf"^a process of the learner: {CANNOT}"):
        RemoteLearner([ray.remote(num_cpus=0)(lacked.Actor).remote()], ())


def test_what_cannot_be_loaded_by_who_is_sent_it_is_named(lacked):
    error = error_of(Mortal.remote().take.remote(lacked.Thing()))
    assert unloadable(error).startswith("the machine ")
    assert "(System error: No module named 'lacked_there')" in unloadable(error)


def test_a_death_is_told_with_what_ray_knows_of_it(pool_of):
    pool, made, _ = pool_of(Mortal, restarts=0)
    with pytest.raises(EngineFailure, match=r"lastly it died \(exit code 3\)$"):
        pool.context_length()
    assert made == [0]
    with pytest.raises(RuntimeError, match=r"^a process of the learner died \(exit code 3\)$"):
        RemoteLearner([Mortal.remote()], ())


@pytest.mark.parametrize("locked", [False, True])
def test_an_error_that_does_not_pickle_is_told_in_its_words_and_is_no_death(pool_of, locked):
    words = r"Trouble: no shop\nand no goods$"
    pool, made, said = pool_of(partial(Raising.remote, locked))
    with pytest.raises(RuntimeError, match=words):
        pool.context_length()
    assert (made, said) == ([0], [])
    with pytest.raises(RuntimeError, match=words):
        RemoteLearner([Raising.remote(locked)], ())


@pytest.mark.parametrize("dies", [0, 1, None])
def test_a_rank_that_another_one_misses_before_ray_does_has_died(dies, tmp_path, monkeypatch):
    """And where none has died, what the first one raises is what it is."""
    monkeypatch.setattr(learner, "MISSED_SECONDS", 30.0 if dies is not None else 2.0)
    pair = [Pair.remote(dies) for _ in range(2)]
    remote = RemoteLearner(pair, ({"run": str(tmp_path / "run")},))
    error, said = (RuntimeError, "Connection closed") if dies is None else (RankLost, "a process of the learner died")
    with pytest.raises(error, match=f"^{said}"):
        remote.score([])
    remote.close()


def test_what_ray_only_supposes_is_left_out():
    error = error_of(Mortal.remote().end.remote())
    assert "SIGSEGV" in str(error)
    assert (unloadable(error), reason_of(error)) == ("", "")
