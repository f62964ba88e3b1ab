import numpy as np
import pytest

from grpo_agents.learner.mismatch import check, compare


def test_the_figures_are_the_formulas():
    rng = np.random.default_rng(0)
    own, sampler = rng.normal(-2, 1, 50), rng.normal(-2, 1, 50)
    staleness = rng.integers(0, 3, 50)
    figures = compare(own.astype(np.float32), sampler.astype(np.float32), staleness)
    differences = [p - q for p, q, age in zip(own, sampler, staleness, strict=True) if age == 0]
    assert figures == pytest.approx(
        {
            "staleness/mean": sum(staleness) / 50,
            "staleness/max": 2,
            **{f"staleness/share_{age}": list(staleness).count(age) / 50 for age in range(3)},
            "mismatch/mean": np.mean([abs(d) for d in differences]),
            "mismatch/max": max(abs(d) for d in differences),
            "mismatch/kl": np.mean([-d for d in differences]),
            "mismatch/k3": np.mean([np.exp(d) - d - 1 for d in differences]),
        },
        rel=1e-5,
    )


def test_both_estimates_are_of_the_kl_from_engine_to_learner():
    """In expectation over what the engine samples, by enumeration of a vocabulary."""
    rng = np.random.default_rng(1)
    counts = rng.multinomial(400_000, [1 / 8] * 8)
    sampler = np.log(counts / counts.sum())  # its frequencies are its probabilities
    own = np.log(rng.dirichlet(np.ones(8)))
    tokens = np.repeat(np.arange(8), counts)
    figures = compare(own[tokens], sampler[tokens], np.zeros(len(tokens)))
    kl = (np.exp(sampler) * (sampler - own)).sum()
    assert figures["mismatch/kl"] == pytest.approx(kl, rel=1e-9)
    assert figures["mismatch/k3"] == pytest.approx(kl, rel=1e-9)


def test_a_small_mismatch_keeps_its_digits():
    figures = compare(np.full(10, -1.0), np.full(10, -1.0) + 1e-7, np.zeros(10))
    assert figures["mismatch/k3"] == pytest.approx(5e-15, rel=1e-2)


def test_without_a_token_of_equal_weights_there_is_no_mismatch():
    figures = compare(np.zeros(3), np.ones(3), np.array([1, 1, 2]))
    shares = {"staleness/share_1": pytest.approx(2 / 3), "staleness/share_2": pytest.approx(1 / 3)}
    assert figures == {"staleness/mean": pytest.approx(4 / 3), "staleness/max": 2.0, **shares}
    check(figures, 1e-9)


def test_too_much_of_it_is_refused():
    figures = compare(np.zeros(2), np.array([0.1, 0.3]), np.zeros(2))
    check(figures, 0.2001)
    with pytest.raises(ValueError, match=r"by 0\.2 on average \(by 0\.3 at most\), and engine\.check\.mismatch is 0\.1"
                       r"\. Nothing was learned.*temperature.*train --resume"):  # fmt: skip
        check(figures, 0.1)
