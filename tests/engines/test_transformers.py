import numpy as np
import pytest
import torch
from scipy import stats
from tiny import full_logprobs, make_model
from transformers import MistralConfig, MistralForCausalLM

from grpo_agents.engines import Request, Sampling, uniform
from grpo_agents.engines.transformers import TransformersEngine, draw
from grpo_agents.engines.weights import Weights

VOCAB = 97
STOPS = tuple(range(0, VOCAB, 9))


def make_engine(model=None, **settings):
    return TransformersEngine(model or make_model(), pad_id=0, **settings)


def prompts(count, seed=0, longest=12):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCAB, rng.integers(1, longest)).tolist() for _ in range(count)]


def request(session, ids, *, limit=10, seed=None):
    return Request(session, ids, 1000 + session if seed is None else seed, limit)


def generate(engine, requests, sampling=None):
    delivered = []
    engine.submit(requests, sampling or Sampling(stop_ids=STOPS), delivered.append)
    assert len(delivered) == len(requests)
    return {done.session: done for done in delivered}


def distributions(model, ids, sampling):
    """log π over the support of top-k, then top-p, by token, after every position: in float64, by sorting plainly."""
    tokens = torch.tensor([ids])
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0].double().numpy() / sampling.temperature
    found = []
    for row in logits[:-1]:
        order = np.argsort(-row)
        kept = order[: sampling.top_k] if sampling.top_k else order
        probabilities = np.exp(row[kept] - row[kept].max())
        probabilities /= probabilities.sum()
        before = np.concatenate([[0.0], np.cumsum(probabilities)[:-1]])
        inside = before < sampling.top_p
        kept, probabilities = kept[inside], probabilities[inside] / probabilities[inside].sum()
        found.append(dict(zip(kept.tolist(), np.log(probabilities).tolist(), strict=True)))
    return found


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 1.3, "top_k": 9, "top_p": 0.6}]
)
def test_log_probabilities_are_those_of_the_distribution_sampled_from(kind, settings):
    model = make_model(kind)
    sampling = Sampling(stop_ids=STOPS, **settings)
    given = prompts(7)
    found = generate(make_engine(model), [request(n, ids) for n, ids in enumerate(given)], sampling)
    for session, prompt in enumerate(given):
        done = found[session]
        expected = distributions(model, prompt + done.ids, sampling)[len(prompt) - 1 :]
        logprobs = [over.get(token, -np.inf) for over, token in zip(expected, done.ids, strict=True)]
        assert done.logprobs == pytest.approx(logprobs, abs=1e-5)
        if sampling.top_k:
            assert [set(part.ids.tolist()) for part in done.support.split(1)] == [set(over) for over in expected]
        else:
            assert done.support is None


def test_a_seed_gives_the_same_tokens_whatever_is_computed_beside_it():
    """Alone, in a batch, in another order, in blocks of three, and with other requests of the same prompt."""
    model = make_model()
    given = [*prompts(9), *prompts(2) * 3]
    requests = [request(n, ids, limit=14) for n, ids in enumerate(given)]
    together = generate(make_engine(model), requests)
    variants = [
        {n: generate(make_engine(model), [one])[n] for n, one in enumerate(requests)},
        generate(make_engine(model), requests[::-1]),
        generate(make_engine(model, max_rows=3), requests),
        generate(make_engine(model), [requests[index] for index in (5, 11, 2, 14)]),
    ]
    for variant in variants:
        for session, done in variant.items():
            assert done.ids == together[session].ids
            assert done.logprobs == pytest.approx(together[session].logprobs, abs=2e-5)
    assert len({tuple(done.ids) for done in together.values()}) > 10
    same_prompt = [together[n].ids for n in (9, 11, 13)]
    assert len(set(map(tuple, same_prompt))) > 1  # other seeds, other tokens
    again = generate(
        make_engine(model), [request(0, given[0], limit=14, seed=77), request(1, given[0], limit=14, seed=77)]
    )
    assert again[0].ids == again[1].ids


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_turns_go_on_as_if_the_whole_prompt_were_new(kind):
    """Six sessions, four turns of ragged observations, some leaving: tokens and log-probs of a fresh prefill."""
    model = make_model(kind)
    rng = np.random.default_rng(3)
    engine = make_engine(model, max_rows=4)
    dialogue = dict(enumerate(prompts(6, seed=1)))
    computed, new = [], {}
    forward = engine._forward
    engine._forward = lambda block, tokens, fresh: (computed.append(int(fresh.sum())), forward(block, tokens, fresh))[1]
    for turn in range(4):
        requests = [request(n, ids, seed=100 * turn + n) for n, ids in dialogue.items()]
        computed.clear()
        found = generate(engine, requests)
        fresh = generate(make_engine(model), requests)
        for session, done in found.items():
            assert done.ids == fresh[session].ids
            assert done.finish_reason == fresh[session].finish_reason
            whole = dialogue[session] + done.ids
            assert done.logprobs == pytest.approx(full_logprobs(model, whole)[-len(done.ids) :], abs=1e-5)
        if turn:  # only what is new was computed: the last sampled token, what was said, and what was sampled
            assert sum(computed) <= sum(1 + new[n] + len(done.ids) for n, done in found.items())
        new = {n: int(rng.integers(1, 6)) for n in dialogue}
        for session in dialogue:
            dialogue[session] = dialogue[session] + found[session].ids + rng.integers(1, VOCAB, new[session]).tolist()
        if turn == 1:
            engine.release([1, 4])
            del dialogue[1], dialogue[4]
        if turn == 2:  # one sits a turn out, and comes back in the next
            resting = dialogue.pop(0)
    dialogue = {0: resting, **dialogue}
    requests = [request(n, ids, seed=900 + n) for n, ids in dialogue.items()]
    found, fresh = generate(engine, requests), generate(make_engine(model), requests)
    assert {n: done.ids for n, done in found.items()} == {n: done.ids for n, done in fresh.items()}


def test_a_rewritten_history_starts_anew():
    model = make_model()
    engine = make_engine(model)
    given = prompts(3, seed=2)
    first = generate(engine, [request(n, ids) for n, ids in enumerate(given)])
    rewritten = [5, *given[1][1:], *first[1].ids, 8, 9]
    shorter = given[2][:-1] or [3]
    longer = given[0] + first[0].ids + [4]
    requests = [request(0, longer), request(1, rewritten), request(2, shorter)]
    found, fresh = generate(engine, requests), generate(make_engine(model), requests)
    for session in range(3):
        assert found[session].ids == fresh[session].ids
        assert found[session].logprobs == pytest.approx(fresh[session].logprobs, abs=1e-5)
    assert sum(len(block.sessions) - len(block.released) for block in engine._blocks) == 3


def test_the_same_prompt_again_starts_anew():
    """A retry: what was sampled before does not count."""
    engine = make_engine()
    ids = prompts(1)[0]
    assert generate(engine, [request(0, ids)])[0].ids == generate(engine, [request(0, ids)])[0].ids


def test_a_turn_ends_with_its_stop_token():
    found = generate(make_engine(), [request(n, ids, limit=60) for n, ids in enumerate(prompts(20))])
    for done in found.values():
        if done.finish_reason == "stop":
            assert done.ids[-1] in STOPS
            assert not set(done.ids[:-1]) & set(STOPS)
        else:
            assert len(done.ids) == 60
            assert not set(done.ids) & set(STOPS)
    assert sum(done.finish_reason == "stop" for done in found.values()) > 10


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_max_tokens_ends_a_turn(limit):
    found = generate(make_engine(), [request(0, [1, 2], limit=limit), request(1, [3], limit=9)], Sampling())
    assert (len(found[0].ids), found[0].finish_reason) == (limit, "length")
    assert len(found[0].logprobs) == limit
    assert len(found[1].ids) == 9


def test_a_stop_token_at_the_limit_is_a_stop():
    ids = prompts(1)[0]
    free = generate(make_engine(), [request(0, ids, limit=30)], Sampling())[0].ids
    sampling = Sampling(stop_ids=(free[4],))
    at = free.index(free[4]) + 1
    assert generate(make_engine(), [request(0, ids, limit=at)], sampling)[0].finish_reason == "stop"
    assert generate(make_engine(), [request(0, ids, limit=at - 1)], sampling)[0].finish_reason == "length"


def test_stop_texts_end_a_turn_where_they_are_complete():
    engine = make_engine(decode=lambda ids: "".join(f"<{token}>" for token in ids))
    ids = prompts(1)[0]
    free = generate(engine, [request(0, ids, limit=12)], Sampling())[0].ids
    text = f"{free[3]}><{free[4]}"  # across two tokens
    done = generate(
        engine, [request(1, ids, limit=12, seed=1000), request(2, [7], limit=12)], Sampling(stop=(text, "never"))
    )
    assert (done[1].ids, done[1].finish_reason) == (free[:5], "stop")
    assert done[2].finish_reason == "length"
    with pytest.raises(ValueError, match="stop texts need a decoder"):
        generate(make_engine(), [request(0, ids)], Sampling(stop=("x",)))


def test_greedy_is_the_likeliest_token_at_every_step():
    model = make_model()
    given = prompts(5)
    found = generate(make_engine(model), [request(n, ids) for n, ids in enumerate(given)], Sampling(0.0))
    for session, prompt in enumerate(given):
        ids = list(prompt)
        for _ in range(10):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert found[session].ids == ids[len(prompt) :]
        assert found[session].logprobs == pytest.approx(full_logprobs(model, ids)[-10:], abs=1e-5)


def test_released_sessions_leave_the_cache():
    engine = make_engine(max_rows=4)
    given = prompts(6)
    first = generate(engine, [request(n, ids) for n, ids in enumerate(given)])
    assert [len(block.sessions) for block in engine._blocks] == [4, 2]
    engine.release([1, 2, 4, 5, 99])
    assert len(engine._blocks) == 1  # the second held nobody else
    generate(engine, [request(n, given[n] + first[n].ids + [3]) for n in (0, 3)])
    (block,) = engine._blocks
    assert block.sessions == [0, 3]
    assert block.cache.layers[0].keys.shape[0] == 2
    engine.release([0, 3])
    assert engine._blocks == []


def test_new_weights_change_what_is_sampled_and_drop_the_caches():
    model, other = make_model(seed=0), make_model(seed=1)
    engine = make_engine(model)
    ids = prompts(1)[0]
    before = generate(engine, [request(0, ids)])[0]
    engine.update_weights(Weights({name: value.clone() for name, value in other.named_parameters()}, 5))
    assert engine._blocks == []
    longer = ids + before.ids + [4]
    after = generate(engine, [request(0, longer), request(1, ids, seed=1000)])
    expected = generate(make_engine(other), [request(0, longer), request(1, ids, seed=1000)])
    assert (before.version, after[0].version, engine.version) == (0, 5, 5)
    assert after[1].ids != before.ids
    for session in (0, 1):
        assert after[session].ids == expected[session].ids
        assert after[session].logprobs == pytest.approx(expected[session].logprobs, abs=1e-6)


def test_the_learners_own_weights_are_taken_over_without_a_copy():
    model = make_model()
    engine = make_engine(model)
    places = {name: value.data_ptr() for name, value in model.named_parameters()}
    engine.update_weights(Weights(dict(model.named_parameters()), 1))
    assert places == {name: value.data_ptr() for name, value in model.named_parameters()}
    assert engine.version == 1


def test_an_unknown_weight_is_named():
    with pytest.raises(ValueError, match=r"no weight 'model\.layers\.7\.nothing'"):
        make_engine().update_weights(Weights({"model.layers.7.nothing": torch.zeros(1)}, 1))


@pytest.mark.parametrize(
    ("ids", "limit", "message"),
    [([], 5, "session 3: the prompt is empty"), ([1], 0, "session 3: max_tokens is 0"),
     ([1] * 250, 7, r"session 3: 250 prompt and 7 new tokens exceed the model's context of 256")],
)  # fmt: skip
def test_requests_that_cannot_be_met_are_refused(ids, limit, message):
    delivered = []
    with pytest.raises(ValueError, match=message):
        make_engine().submit([Request(2, [1], 0, 1), Request(3, ids, 0, limit)], Sampling(), delivered.append)
    assert delivered == []


def test_the_context_may_be_filled_to_the_last_token():
    model = make_model()
    done = generate(make_engine(model), [request(0, [1] * 250, limit=6)], Sampling())[0]
    assert done.logprobs == pytest.approx(full_logprobs(model, [1] * 250 + done.ids)[-6:], abs=1e-5)


def test_a_session_has_one_request_at_a_time():
    with pytest.raises(ValueError, match="session 3: it has a request under way already"):
        generate(make_engine(), [request(3, [1]), request(3, [2])])


def test_score_is_the_models_own_log_softmax():
    model = make_model()
    given = [*prompts(4), [5]]
    for ids, scores in zip(given, make_engine(model).score(given), strict=True):
        assert scores.dtype == np.float32
        assert scores[0] == 0
        assert scores[1:] == pytest.approx(full_logprobs(model, ids), abs=1e-5)


@pytest.mark.parametrize("what", ["sampling", "score"])
def test_a_model_in_training_mode_samples_without_dropout_and_stays_in_it(what):
    model = make_model(attention_dropout=0.5)
    ids = prompts(1)[0]

    def found():
        engine = make_engine(model)
        return (
            generate(engine, [request(0, ids)])[0].logprobs if what == "sampling" else engine.score([ids])[0].tolist()
        )

    expected = found()
    model.train()
    assert found() == pytest.approx(expected, abs=1e-6)
    assert model.training


def test_sleeping_forgets_the_caches_and_nothing_else():
    engine = make_engine()
    ids = prompts(1)[0]
    first = generate(engine, [request(0, ids)])[0]
    longer = [request(0, ids + first.ids + [2])]
    engine.sleep()
    engine.wake()
    assert engine._blocks == []
    assert generate(engine, longer)[0].ids == generate(make_engine(), longer)[0].ids


def test_a_sliding_window_is_refused():
    config = MistralConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=64,
    )
    with pytest.raises(ValueError, match=r"MistralForCausalLM attends through a window of 64 tokens.*full attention"):
        make_engine(MistralForCausalLM(config))
    config.sliding_window = None
    assert make_engine(MistralForCausalLM(config)).context_length == 256


# The draw itself


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7}])
def test_what_is_drawn_follows_the_distribution(settings):
    torch.manual_seed(0)
    row = torch.randn(12) * 1.5
    sampling = Sampling(**settings)
    count = 40_000
    noise = uniform(np.arange(count, dtype=np.uint64), np.full(count, 17, np.uint64))
    drawn, logprobs, _ = draw(row.expand(count, -1), sampling, noise)
    logits = row.double().numpy() / sampling.temperature
    order = np.argsort(-logits)
    kept = order[: sampling.top_k] if sampling.top_k else order
    probabilities = np.zeros(12)
    probabilities[kept] = np.exp(logits[kept])
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        before = np.concatenate([[0], np.cumsum(probabilities[order])[:-1]])
        probabilities[order[before >= sampling.top_p]] = 0
        probabilities /= probabilities.sum()
    counts = np.bincount(drawn, minlength=12)
    assert not counts[probabilities == 0].any()
    inside = probabilities > 0
    assert stats.chisquare(counts[inside], count * probabilities[inside]).pvalue > 1e-3
    assert np.exp(logprobs) == pytest.approx(probabilities[drawn], rel=1e-5)


def test_the_ends_of_the_interval_stay_inside_the_support():
    row = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf], [0.0, -200.0, -200.0, -200.0]])
    for noise in (2.0**-53, 1 - 2.0**-53):
        drawn, logprobs, _ = draw(row, Sampling(), np.full(2, noise))
        assert drawn[0] in (1, 2)
        assert drawn[1] == 0
        assert np.isfinite(logprobs).all()


def test_no_more_than_k_survive_a_tie():
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 2.0, 5.0]])
    drawn, logprobs, support = draw(logits, Sampling(top_k=2), np.array([0.9, 0.001]))
    assert support.shape == (2, 2)
    assert drawn[0] in support[0]
    assert (drawn[1], set(support[1]) - {1, 2}) == (3, {3})
    assert np.exp(logprobs) == pytest.approx([0.5, 1 / (1 + np.exp(-3))])


def test_the_likeliest_token_is_sampled_from_no_support():
    """Greedy log-probs are those at temperature 1 over the whole vocabulary."""
    found = generate(make_engine(), [request(0, [3, 4])], Sampling(0.0, top_k=5, stop_ids=STOPS))
    assert found[0].support is None
