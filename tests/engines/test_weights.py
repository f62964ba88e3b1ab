import threading

import pytest

from grpo_agents.engines.weights import Weights


def test_a_reader_gets_either_version_whole_and_never_what_is_between():
    """Two updates on one batch: what lies between them is of no version."""
    weights = Weights({"w": [0, 0]}, 0)
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            with weights.reading() as (named, version):
                seen.append((version, *named["w"]))

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(1, 300):
        with weights.moving(to=version):
            for _ in range(2):
                for place in range(2):
                    weights.named["w"][place] += 1
    done.set()
    reader.join()
    assert len(set(seen)) > 1
    assert all((first, second) == (2 * version, 2 * version) for version, first, second in seen)


def test_weights_that_could_not_be_moved_are_not_said_to_be_newer():
    weights = Weights({}, 3)
    with pytest.raises(FloatingPointError), weights.moving(to=4):
        raise FloatingPointError
    with weights.reading() as (_, version):
        assert version == 3
