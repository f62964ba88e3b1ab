"""The lens against the formulas of DeepSeekMath's table, by hand, on a run made by hand."""

import copy
import math
import re
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch
from safetensors.torch import save_file
from tiny import full_logprobs, make_model, make_tokenizer, save_start

from grpo_agents import checkpoint, store
from grpo_agents.config import make_config, save_config
from grpo_agents.learner.model import save_model
from grpo_agents.lens import explain
from grpo_agents.methods.ppo import generalised_advantages
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.run_folder import RunFolder
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Group, Sample, Step, Trajectory

TURNS = [(2, 3), (4, 1), (3, 2), (1, 4)]
"""Sampled tokens of the two turns of each rollout."""

SCORING = Scoring(RewardVector([Component("outcome", None)]), {}, None)


def episode(index, rng, vocab, policy, *, outcome, group=0, shift=0.0):
    """A rollout of two turns after three tokens of prompt; ``shift`` is added to what the engine said of its tokens."""
    first, second = TURNS[index]
    mask = np.array([False] * 3 + [True] * first + [False] * 2 + [True] * second)
    ids = rng.integers(0, vocab, len(mask)).astype(np.int32)
    logprobs = np.concatenate([[0.0], full_logprobs(policy, ids)]) + shift
    sample = Sample(ids, mask, np.where(mask, logprobs, 0).astype(np.float32))
    spans = [(3, 3 + first), (5 + first, len(mask))]
    steps = [Step({"role": "assistant", "content": ""}, span=span) for span in spans]
    return Trajectory(steps=steps, samples=[sample], rewards={"outcome": outcome}, group=group, index=index)


class Run:
    """A run folder whose policy moved away from where it began; rewards [1, 0, 0, 0], on-policy where not shifted."""

    def __init__(self, folder, **settings):
        self.start, self.folder = folder / "start", RunFolder(folder / "run")
        save_start(self.start)
        tokenizer = make_tokenizer()
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        self.reference = make_model(vocab=len(tokenizer), **ends)
        self.policy = make_model(vocab=len(tokenizer), **ends)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        values = {"model": {"path": str(self.start)}, "env": {"id": "grpo_agents/Math-v0"}, **settings}
        self.folder.create(make_config(values))
        self.vocab = len(tokenizer)
        for step, shift in enumerate([0.3, 0.0]):
            rng = np.random.default_rng(step)
            groups = []
            for number in range(2):
                episodes = [
                    episode(index, rng, self.vocab, self.policy, outcome=float(not index), group=number, shift=shift)
                    for index in range(4)
                ]
                groups.append(Group({}, {}, episodes))
            store.write(self.folder.trajectory_file("train", step), groups, step=step, phase="train", scoring=SCORING)
        self.save(2, tokenizer)

    def save(self, step, tokenizer, **beside):
        def fill(folder):
            save_model(self.policy, folder / "model")
            tokenizer.save_pretrained(folder / "model")
            for name, tensors in beside.items():
                save_file(tensors, folder / f"{name}.safetensors")

        return checkpoint.write(self.folder.checkpoints, step, {}, fill, keep=9)

    def trajectory(self, name, step=1):
        return next(entry for entry in store.read(self.folder.trajectory_file("train", step)) if entry.id == name)

    def log_ratio(self, name):
        """log π/π_ref of its sampled tokens, from forward passes of their own."""
        [sample] = self.trajectory(name).samples
        difference = full_logprobs(self.policy, sample.ids) - full_logprobs(self.reference, sample.ids)
        return difference[sample.mask[1:]]

    def explain(self, name="0.0", *methods, **options):
        return explain(self.folder.path, name, methods=methods or None, **options)

    def column(self, name, method, **options):
        return self.explain(name, method, **options).table[method].to_numpy()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("lens"))


@pytest.mark.parametrize(("name", "advantage"), [("0.0", 1.5), ("0.2", -0.5)])
def test_grpo_on_policy_is_the_advantage_and_the_pull_of_the_reference(made, name, advantage):
    found = made.explain(name, "grpo,kl_weight=0.3").table
    ratio = np.exp(-made.log_ratio(name))  # π_ref/π
    assert np.abs(ratio - 1).max() > 0.1
    assert found["grpo,kl_weight=0.3"].to_numpy() == pytest.approx(advantage + 0.3 * (ratio - 1), abs=1e-4)
    assert found["ratio"].to_numpy() == pytest.approx(1.0, abs=1e-4)
    assert found["kl"].to_numpy() == pytest.approx(ratio - np.log(ratio) - 1, abs=1e-4)
    assert found["advantage"].to_numpy() == pytest.approx(advantage, abs=1e-4)


def test_the_unbiased_kl_has_the_coefficient_that_its_legend_says(made):
    found = made.explain("0.1", "grpo,kl=unbiased,kl_weight=0.3", "grpo,kl=k2,kl_weight=0.3")
    for name in found.readings:  # ρ is 1, and so both are the same
        assert found.table[name].to_numpy() == pytest.approx(-0.5 - 0.3 * made.log_ratio("0.1"), abs=1e-4)
    assert [reading.formula for reading in found.readings.values()] == [
        "ρ Â, 0 where the clip holds; − βρ log(π/π_ref)",
        "ρ Â, 0 where the clip holds; − β log(π/π_ref)",
    ]


@pytest.mark.parametrize(("method", "right", "wrong"), [("sft", 1, 1), ("rft", 1, 0), ("online_rft", 1, 0)])
def test_what_imitates_counts_1_on_what_it_takes(made, method, right, wrong):
    assert made.column("0.0", method) == pytest.approx(right)
    assert made.column("0.2", method) == pytest.approx(wrong)
    notes = made.explain("0.2", method).readings[method].note
    assert notes == ("trajectory 0.2 takes no part" if method == "rft" else "")


def test_dpo_is_sigma_of_what_the_worse_is_ahead_by(made):
    """The pair is the best and the first of the worst; means of log-ratios in the paper's form, sums in the book's."""
    better, worse = made.log_ratio("0.0"), made.log_ratio("0.1")
    for form, push in {
        "dpo,beta=2.0": 1 / (1 + math.exp(2 * (better.mean() - worse.mean()))),
        "dpo,form=textbook,beta=2.0": 2.0 / (1 + math.exp(2 * (better.sum() - worse.sum()))),
    }.items():
        assert abs(push - 0.5) > 0.01
        for name, sign, length in (("0.0", 1, len(better)), ("0.1", -1, len(worse))):
            expected = sign * push * (length if "textbook" in form else 1)
            assert made.column(name, form) == pytest.approx(expected, rel=1e-3)
    left_out = made.explain("0.2", "dpo")
    assert not left_out.table["dpo"].to_numpy().any()
    assert left_out.table["advantage"].null_count == 3 + 2


def test_ppo_takes_a_value_of_0_where_there_is_no_critic_and_says_so(made):
    found = made.explain("0.0", "ppo,kl_weight=0.2")
    rewards = -0.2 * (found.table["old_logprob"].to_numpy() - found.table["reference_logprob"].to_numpy())
    rewards[-1] += 1.0
    expected = generalised_advantages(rewards, np.zeros(5), 1.0, 0.95)
    assert found.table["ppo,kl_weight=0.2"].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert found.readings["ppo,kl_weight=0.2"].note == "V = 0: no critic is kept with these weights"


def test_ppo_reads_the_critic_of_the_checkpoint(made):
    head = {"head.weight": torch.zeros(1, 32), "head.bias": torch.tensor([0.5])}
    kept = made.save(1, make_tokenizer(), critic=head)
    found = made.explain("0.0", "ppo,kl_weight=0.0", weights=kept)
    expected = generalised_advantages(np.array([0, 0, 0, 0, 1.0]), np.full(5, 0.5), 1.0, 0.95)
    assert found.table["ppo,kl_weight=0.0"].to_numpy() == pytest.approx(expected, abs=1e-4)
    assert found.readings["ppo,kl_weight=0.0"].note == ""


def test_the_clip_takes_the_advantage_and_leaves_the_kl(made):
    """At step 0 the engine's log-probabilities were higher by 0.3: ρ = 0.74, below what a clip of 0.2 lets through."""
    held, free = (made.explain(name, "grpo", step=0) for name in ("0.1", "0.0"))
    assert held.table["ratio"].to_numpy() == pytest.approx(math.exp(-0.3), abs=1e-4)
    assert held.table["grpo_clipped"].to_numpy(zero_copy_only=False).all()
    assert not free.table["grpo_clipped"].to_numpy(zero_copy_only=False).any()
    pull = 0.04 * np.expm1(held.table["reference_logprob"].to_numpy() - held.table["logprob"].to_numpy())
    assert held.table["grpo"].to_numpy() == pytest.approx(pull, abs=1e-5)
    cispo = made.explain("0.1", "cispo", step=0).table  # its cap never takes a gradient away
    assert cispo["cispo"].to_numpy() == pytest.approx(-0.5 * math.exp(-0.3) * 5 / 5, abs=1e-3)


def recomputed(method, **others):
    """Overrides of a run that computes log π_old again."""
    settings = {"learner.old_logprobs": "recompute", "method": method, **others}
    return [f"{key}={value}" for key, value in settings.items()]


@pytest.mark.parametrize(("name", "advantage"), [("0.0", 1.5), ("0.2", -0.5)])
@pytest.mark.parametrize(("settings", "weigh"), [
    ("tis=1.1", lambda w: np.minimum(w, 1.1)), ("mis=1.1", lambda w: w * (w <= 1.1)),
    ('tis=1.1,importance_level="sequence"', lambda w: np.minimum(np.full(len(w), w.prod()), 1.1)),
])  # fmt: skip
def test_tokens_are_weighed_by_what_the_run_began_the_step_with(made, name, advantage, settings, weigh):
    """π_old is the model of step 0, which is the reference here: its forward pass over the engine's log-probability."""
    method = '{name="grpo",clip_low=0.99,clip_high=99.0,' + settings + "}"
    found = made.explain(name, "run", step=0, overrides=recomputed(method))
    [sample] = made.trajectory(name, step=0).samples
    old, now = (full_logprobs(model, sample.ids)[sample.mask[1:]] for model in (made.reference, made.policy))
    sampler = sample.logprobs[sample.mask]
    weights = weigh(np.exp(old - sampler))
    assert len(set(weights.round(3))) > 1 or "sequence" in settings
    assert found.table["run"].to_numpy() == pytest.approx(weights * np.exp(now - old) * advantage, rel=1e-3, abs=1e-5)
    assert found.table["ratio"].to_numpy() == pytest.approx(np.exp(now - old), rel=1e-3)
    assert found.table["sampler_logprob"].to_numpy() == pytest.approx(sampler)
    assert found.notes == [f"π_old: {made.start}"]
    assert found.readings["run"].note == ""


def test_later_steps_began_with_a_checkpoint(made):
    made.save(1, make_tokenizer())
    found = made.explain("0.0", "run", overrides=recomputed('{name="grpo",tis=1.1}'))
    assert found.notes == [f"π_old: {made.folder.checkpoints / 'step-000001' / 'model'}"]
    assert found.table["ratio"].to_numpy() == pytest.approx(1.0, abs=1e-5)  # it is π


@pytest.mark.parametrize(("others", "reason"), [
    ({}, "computed it again with the weights of step 5, and .*step-000005/model is not there"),
    ({"source.kind": "stored", "source.path": "a"}, "at which weights this was learned is not stored"),
])  # fmt: skip
def test_where_the_weights_of_a_step_are_gone_the_lens_says_so(made, others, reason):
    file = made.folder.trajectory_file("train", 5)
    groups = store.read_groups(made.folder.trajectory_file("train", 1))
    store.write(made.folder.path / file.name, groups, step=5, phase="train", scoring=SCORING)
    overrides = recomputed('{name="grpo",tis=1.1}', **others)
    found = made.explain("0.0", "run", "grpo", file=made.folder.path / file.name, overrides=overrides)
    assert re.search(f"π_old is taken to be what the engine returned: .*{reason}", found.notes[0])
    assert found.readings["run"].note == "π_old/π_sampler = 1"
    assert found.readings["grpo"].note == ""
    assert found.table["old_logprob"].equals(found.table["sampler_logprob"])


def test_other_aggregations_show_what_they_do_to_lengths(made):
    mean = np.mean([sum(turns) for turns in TURNS])
    assert made.column("0.0", "bnpo") == pytest.approx(1.5 * 5 / mean, abs=1e-3)
    assert made.column("0.0", "dr_grpo,aggregation=constant,max_length=20") == pytest.approx(0.75 * 5 / 20, abs=1e-3)


def test_the_gradient_is_the_coefficient_by_its_scale(made):
    found = made.explain("0.3", "grpo")
    assert found.readings["grpo"].scale == 5 * 4
    gradient = found.table["grpo_gradient"].to_numpy()
    assert gradient * 20 == pytest.approx(found.table["grpo"].to_numpy())


def test_the_runs_own_method_comes_first_and_then_the_papers_table(made):
    found = made.explain()
    assert list(found.readings) == ["run", "sft", "rft", "online_rft", "dpo", "ppo", "grpo"]
    assert found.readings["run"].method.kl_weight == 0
    assert found.readings["grpo"].method.kl_weight == 0.04
    assert found.policy == made.folder.checkpoints / "step-000002" / "model"
    assert found.reference == str(made.start)
    assert made.column("0.0", "run", overrides=["method.scale=none"]) == pytest.approx(0.75, abs=1e-3)


def test_turns_that_are_not_learned_from_have_no_push(tmp_path):
    """With ``advantage.drop`` |o| counts what is learned from; whoever drops nothing shows every token."""
    made = Run(tmp_path, advantage={"drop": ["unreadable"]})
    file = made.folder.trajectory_file("train", 1)
    groups = store.read_groups(file)
    for step in (groups[0].trajectories[1].steps[0], *groups[0].trajectories[3].steps):
        step.message["tool_calls"] = [{"invalid": "not JSON", "text": "{"}]
    store.write(file, groups, step=1, phase="train", scoring=SCORING)
    first, second = TURNS[1]
    found = made.explain("0.1", "grpo,kl_weight=0", "sft")
    grpo, sft = found.readings.values()
    assert grpo.coefficients.tolist() == pytest.approx([0.0] * first + [-0.5] * second, rel=1e-4)
    assert grpo.gradient.tolist() == pytest.approx(
        [0.0] * first + [-0.5 / (3 * second)] * second, rel=1e-4
    )  # 0.3 has no turn
    assert np.isnan(grpo.advantages).tolist() == [True] * first + [False] * second
    assert grpo.note == "turns with a call that cannot be read are not learned from"
    assert sft.coefficients.tolist() == pytest.approx([1.0] * (first + second), rel=1e-4)
    assert made.explain("0.3", "grpo").readings["grpo"].note == "trajectory 0.3 takes no part"


def test_the_weights_may_be_others(made):
    found = made.explain("0.0", "grpo", weights=made.start)
    assert found.table["kl"].to_numpy() == pytest.approx(0.0)
    assert np.abs(found.table["ratio"].to_numpy() - 1).max() > 0.1


def test_the_side_table_joins_with_the_trajectories(made):
    found = made.explain("1.2", "grpo")
    file = found.save(made.folder.lens)
    assert file == made.folder.lens / "train-000001-1.2.parquet"
    place = ["run_step", "phase", "group", "index"]
    stored = pandas.read_parquet(made.folder.trajectory_file("train", 1))
    joined = pandas.read_parquet(file).merge(stored, on=place, validate="many_to_one", suffixes=("", "_stored"))
    [sample] = made.trajectory("1.2").samples
    assert joined["token"].tolist() == sample.ids[sample.mask].tolist()
    assert joined["position"].tolist() == np.flatnonzero(sample.mask).tolist()
    assert joined["turn"].tolist() == [0] * 3 + [1] * 2
    assert joined["grpo"].to_numpy() == pytest.approx(found.table["grpo"].to_numpy())
    for row in joined.itertuples():
        assert row.samples[row.sample]["ids"][row.position] == row.token
        assert row.samples[row.sample]["logprobs"][row.position] == pytest.approx(row.old_logprob)
    query = f"""select count(*), min(t.samples[l.sample + 1].ids[l.position + 1] = l.token)
        from '{file}' l join '{made.folder.trajectory_file("train", 1)}' t using (run_step, phase, "group", "index")"""
    code = f"import duckdb; print(duckdb.sql({query!r}).fetchall())"  # apart: its binding talks when pytest ends
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "[(5, True)]\n"
    )
    assert store.read(made.folder.trajectories)  # which it does not lie among


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "0.7",
            {},
            r"there is no trajectory 0.7 in any of 2 files. Did you mean 0.[0-3]\? .*train-000000.parquet holds 0.0",
        ),
        ("5.5", {"step": 1}, r"there is no trajectory 5.5 in .*train-000001.parquet.* holds 0.0, 0.1, .* 1.3"),
        ("0.0", {"step": 7}, "there is no .*train-000007.parquet; the files are train-000000.parquet … train-000001"),
        ("0.0", {"step": 1, "file": "a"}, "name a step or a file, not both"),
        ("0.0", {"methods": ["grop"]}, "unknown method 'grop'. Did you mean 'grpo'"),
        ("0.0", {"methods": ["grpo,kl_wight=1"]}, "Did you mean 'kl_weight'"),
        ("0.0", {"methods": ["grpo,kl_weight"]}, "write its settings as grpo,key=value"),
        (
            "0.0",
            {"methods": ["rft,correct=style"]},
            "reads the reward 'style', which is not among .*: outc",
        ),
        ("0.0", {"weights": "nowhere"}, "nowhere is no folder of weights"),
    ],
)
def test_what_is_not_there_is_said(made, name, options, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        explain(made.folder.path, name, **options)


def test_a_run_without_trajectories_or_weights_says_what_to_name(made, tmp_path):
    folder = RunFolder(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="no config file"):
        explain(folder.path, "0.0")
    folder.create(make_config({"model": {"path": str(made.start)}, "env": {"id": "grpo_agents/Math-v0"}}))
    with pytest.raises(FileNotFoundError, match=r"has no trajectories of training.* Name a file of trajectories$"):
        explain(folder.path, "0.0")
    file = made.folder.trajectory_file("train", 1)
    with pytest.raises(FileNotFoundError, match="has no checkpoint: name a folder of weights with --weights"):
        explain(folder.path, "0.0", file=file)
    assert explain(folder.path, "0.0", file=file, weights=made.start).table.num_rows == 5


def test_what_has_no_token_ids_is_refused(made, tmp_path):
    told = Trajectory(steps=[Step({"role": "assistant", "content": "4"}, tokens=3)], rewards={"outcome": 1.0})
    store.write(tmp_path / "hosted.parquet", [told], scoring=SCORING)
    with pytest.raises(ValueError, match="has no token ids, as a hosted model gives none"):
        made.explain("0.0", file=tmp_path / "hosted.parquet")
    store.write(tmp_path / "old.parquet", [made.trajectory("0.0")])
    with pytest.raises(ValueError, match="does not say how its trajectories were scored"):
        made.explain("0.0", file=tmp_path / "old.parquet")


def test_a_method_of_the_paper_that_cannot_be_computed_is_left_out_with_the_reason(made, tmp_path):
    scoring = Scoring(RewardVector([Component("style", None)]), {}, None)
    trajectory = made.trajectory("0.0")
    trajectory.rewards = {"style": 1.0}
    store.write(tmp_path / "other.parquet", [trajectory], scoring=scoring)
    found = made.explain("0.0", file=tmp_path / "other.parquet")
    assert list(found.readings) == ["run", "sft", "dpo", "ppo", "grpo"]
    assert found.notes == [
        f"{name} is left out: method {name!r} reads the reward 'outcome', which is not among the components: style. "
        "Add it to rewards.vector, or name one of them"
        for name in ("rft", "online_rft")
    ]


def test_the_reference_of_a_lora_run_is_its_base_model(made, tmp_path):
    from peft import LoraConfig, get_peft_model

    lora = get_peft_model(
        copy.deepcopy(made.reference), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                parameter += 0.3
    save_model(lora, tmp_path / "adapter")
    config = make_config(
        {"model": {"path": str(made.start), "lora": {"rank": 2}}, "env": {"id": "grpo_agents/Math-v0"}}
    )
    folder = RunFolder(tmp_path / "lora")
    folder.create(config)
    save_config(config, folder.config)
    file = made.folder.trajectory_file("train", 1)
    found = explain(folder.path, "0.0", methods=["grpo"], file=file, weights=tmp_path / "adapter").table
    based = made.explain("0.0", "grpo").table
    assert found["reference_logprob"].to_numpy() == pytest.approx(based["reference_logprob"].to_numpy(), abs=1e-4)
    assert np.abs(found["logprob"].to_numpy() - found["reference_logprob"].to_numpy()).max() > 0.01
