"""The page as a file: what is in it, what is left out, and that nothing in it can break out."""

import base64
import gzip
import hashlib
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import grouped, make_run, rollout
from tiny import make_tokenizer

from grpo_agents import store
from grpo_agents.report.document import Report, write_report
from grpo_agents.report.sources import find_source
from grpo_agents.trajectory import Step, Trajectory


def contents(page):
    """Figures, index, blocks and texts of a page."""

    def script(name):
        return re.search(rf'<script type="[^"]+" id="{name}">(.*?)</script>', page, re.DOTALL)[1]

    def packed(name):
        return json.loads(gzip.decompress(base64.b64decode(script(name))))

    blocks = [packed(name) for name in re.findall(r'id="(block-\d+)"', page)]
    return json.loads(script("figures")), json.loads(script("index")), blocks, packed("texts")


def built(path, **options):
    return contents(Report(find_source(path), **options).build())


def test_every_trajectory_is_in_it_token_for_token(tmp_path):
    run = make_run(tmp_path / "mine")
    make_tokenizer().save_pretrained(run / "model")
    _, index, blocks, texts = built(run)
    tokenizer = make_tokenizer()
    stored = store.read(run / "trajectories")
    assert len(index["rollouts"]["group"]) == len(stored) == 2 * 6 + 3 * 12
    rows = {
        (*index["batches"][index["groups"]["batch"][group]][:2], index["groups"]["number"][group], number): row
        for row, (group, number) in enumerate(zip(index["rollouts"]["group"], index["rollouts"]["index"], strict=True))
    }
    for file in find_source(run).files:
        for place, one in zip(store.read_places(file), store.iterate(file), strict=True):
            row = rows[place["phase"], place["run_step"], one.group, one.index]
            group = index["rollouts"]["group"][row]
            found = blocks[index["groups"]["block"][group]][index["groups"]["place"][group]]
            (shown,) = [entry for entry in found["rollouts"] if entry["index"] == one.index]
            for step, said in zip(one.steps, shown["steps"], strict=True):
                ids = one.samples[0].ids[slice(*step.span)]
                assert [texts[number] for number in said["tokens"]] == [tokenizer.decode([n]) for n in ids]
                assert np.array(said["logprobs"]) / 1000 == pytest.approx(
                    one.samples[0].logprobs[slice(*step.span)], abs=6e-4
                )
            assert found["prompt"] == [{"role": "user", "text": one.prompt[0]["content"]}]
            values = dict(zip(index["components"], index["rollouts"]["values"][row], strict=True))
            assert {name: values[name] for name in one.rewards} == one.rewards


def test_only_tokens_that_occur_have_their_text_in_it(tmp_path):
    run = make_run(tmp_path, steps=(0,), evaluations=(), groups=1, size=1, vocab=5)
    make_tokenizer().save_pretrained(run / "model")
    assert len(built(run)[3]) <= 5


def test_without_a_tokenizer_it_says_why(tmp_path):
    figures, _, blocks, texts = built(make_run(tmp_path))
    assert texts == []
    assert "no model folder on this disk" in figures["why_no_text"]
    assert blocks[0][0]["rollouts"][0]["steps"][1]["message"]["text"] == "so it is"
    (tmp_path / "model").mkdir()
    assert "no tokenizer could be loaded (model: " in built(tmp_path)[0]["why_no_text"]


def test_a_hosted_models_turns_have_no_tokens(tmp_path):
    said = Step({"role": "assistant", "content": "four"}, tokens=17)
    store.write(tmp_path / "some.parquet", [Trajectory(steps=[said], rewards={"outcome": 1.0})])
    figures, index, blocks, _ = built(tmp_path / "some.parquet")
    assert "no token ids" in figures["why_no_text"]
    assert figures["panels"] == []
    assert index["rollouts"]["tokens"] == [17]
    assert "tokens" not in blocks[0][0]["rollouts"][0]["steps"][0]


def test_a_run_without_evaluations_compares_its_first_and_last_step(tmp_path):
    assert built(make_run(tmp_path, evaluations=()))[0]["focus"] == ["train 0", "train 2"]
    assert built(make_run(tmp_path))[0]["focus"] == ["eval 0", "eval 2"]


def test_a_run_without_trajectories_has_curves(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "reward": 1.0}\n')
    figures, index, _, _ = built(tmp_path)
    assert [panel["key"] for panel in figures["panels"]] == ["reward"]
    assert index["batches"] == []


def test_an_empty_run_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match=r"nothing to show yet, neither metrics nor trajectories\. Let the run finish"):
        write_report(find_source(tmp_path), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    assert contents(Report(find_source(tmp_path)).build("v1"))[0]["watched"] == "v1"  # one that waits


def test_what_is_left_out_is_said(tmp_path):
    run = make_run(tmp_path, steps=range(10), evaluations=(0, 5, 10))
    assert built(run)[0]["left_out"] == ""
    figures, index, _, _ = built(run, limit=40)
    assert len(index["rollouts"]["group"]) == 18 + 12
    assert figures["left_out"] == (
        "30 of 138 trajectories are on this page (eval: 18 of 18, of 3 steps from 0 to 10; train: 12 of 120, of step "
        "9). --limit takes another number."
    )
    assert sum(map(sum, figures["ends"]["counts"])) == 30
    cut = built(run, limit=4)
    assert len(cut[1]["rollouts"]["group"]) <= 4
    assert figures["tiles"] == cut[0]["tiles"]  # the last evaluation is counted whole, whatever is shown of it


def test_coefficients_of_the_lens_are_beside_their_tokens(tmp_path):
    run = make_run(tmp_path, steps=(3,), evaluations=(), groups=1, size=2)
    places = [(0, position) for position in (4, 5, 20)]
    columns = {
        **{"run_step": [3] * 3, "phase": ["train"] * 3, "group": [0] * 3, "index": [1] * 3},
        **{"sample": [at[0] for at in places], "position": [at[1] for at in places]},
        "grpo,kl_weight=0.1": [0.5, None, -1.25],
    }
    about = {b"grpo_agents.lens": json.dumps({"grpo,kl_weight=0.1": {}}).encode()}
    (run / "lens").mkdir()
    pq.write_table(pa.table(columns).replace_schema_metadata(about), run / "lens" / "train-000003-0.1.parquet")
    first, second = built(run)[2][0][0]["rollouts"]
    assert first["steps"][0]["coefficients"] == []
    assert second["steps"][0]["coefficients"] == [["grpo,kl_weight=0.1", [500] + [None] * 11]]
    assert second["steps"][1]["coefficients"][0][1][:3] == [None, None, -1250]  # its tokens begin at 18
    (run / "lens" / "other.parquet").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"other\.parquet: not a table of the lens.*or remove it"):
        built(run)


def test_its_policy_allows_its_own_script_and_style_and_nothing_else(tmp_path):
    page = Report(find_source(make_run(tmp_path))).build()
    policy = dict(
        entry.split(" ", 1)
        for entry in re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1].replace("&#39;", "'").split("; ")
    )
    for kind, text in (
        ("script-src", re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]),
        ("style-src", re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]),
    ):
        assert policy.pop(kind) == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert set(policy.values()) == {"'none'"}
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "'self'" in re.search(r'content="([^"]+)"', Report(find_source(tmp_path)).build("v1"))[1].replace(
        "&#39;", "'"
    )


def test_no_text_ends_a_script_element(tmp_path):
    evil = "</script><script>x()</script><!-- \u2028 \ud800"
    rng = np.random.default_rng(0)
    one = rollout(
        rng,
        0,
        0,
        text=evil,
        error=evil,
        task={"id": evil},
        stop_reason=evil,
        prompt=({"role": "user", "content": evil},),
    )
    store.write(tmp_path / "some.parquet", grouped([one]))
    page = Report(find_source(tmp_path / "some.parquet")).build()
    assert (
        page.count("<script") == page.count("</script>") == 3 + 1 + 1
    )  # figures, index, the page's own, texts, a block
    assert "<!--" not in page
    shown = contents(page)[2][0][0]["rollouts"][0]["steps"][1]["message"]["text"]
    assert shown == evil.encode("utf-8", "backslashreplace").decode()  # as the store gives back a lone surrogate


def test_groups_that_are_numbered_alike_are_kept_apart(tmp_path):
    """As in files that no run wrote."""
    everyone = [Trajectory(task={"id": name}, rewards={"outcome": 1.0}) for name in "abc"]
    store.write(tmp_path / "some.parquet", everyone)
    _, index, blocks, _ = built(tmp_path / "some.parquet")
    assert index["groups"]["text"] == [f'{{"id": "{name}"}}'.replace(" ", "") for name in "abc"]
    assert [len(group["rollouts"]) for group in blocks[0]] == [1, 1, 1]


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    out = tmp_path / "pages" / "a.html"
    size = write_report(find_source(run), out)
    assert out.stat().st_size == size
    before = out.read_bytes()
    (run / "trajectories" / "train-000001.parquet").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"train-000001\.parquet: not a readable trajectory file"):
        write_report(find_source(run), out)
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["a.html"]
