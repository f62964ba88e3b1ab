import textwrap

import pytest
import torch

from grpo_agents.methods import Method, Tokens, available, coefficients, make_method
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.sft import Sft


def test_methods_are_found_by_name():
    found = available()
    assert found["grpo"] is Grpo
    assert found["sft"] is Sft
    assert all(issubclass(cls, Method) and cls.name == name for name, cls in found.items())


def test_settings_reach_the_method():
    made = make_method({"name": "grpo", "clip_high": 0.28})
    assert (made.clip_low, made.clip_high) == (0.2, 0.28)


def test_grpo_is_what_is_made_without_a_name():
    assert isinstance(make_method({}), Grpo)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown method 'grop'\. Did you mean 'grpo'\? There are: .*sft"):
        make_method({"name": "grop"})


@pytest.mark.parametrize(
    ("written", "meant"), [("GRPO", "grpo"), ("Dr. GRPO", "dr_grpo"), ("REINFORCE++", "reinforce_pp")]
)
def test_a_name_as_papers_write_it_is_recognised(written, meant):
    with pytest.raises(ValueError, match=rf"Did you mean '{meant}'\?"):
        make_method({"name": written})


@pytest.mark.parametrize(("name", "setting", "owners"), [
    ("gspo", "cap", "cispo"), ("dpo", "kl_weight", "grpo"), ("dpo", "clip_high", "dapo, grpo, gspo"),
])  # fmt: skip
def test_a_setting_of_another_method_is_said_to_be_one(name, setting, owners):
    said = rf"unknown key method\.{setting}\. There are: .*\n{setting} is a setting of {owners}, not of {name}$"
    with pytest.raises(ValueError, match=said):
        make_method({"name": name, setting: 1.0})


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown key method\.clip_hi\. Did you mean 'clip_high'"):
        make_method({"name": "grpo", "clip_hi": 0.28})


def test_every_wrong_setting_is_named():
    with pytest.raises(ValueError, match=r"(?s)method\.clip_low: .*method\.kl: ") as caught:
        make_method({"name": "grpo", "clip_low": -1, "kl": "k9"})
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(("name", "key", "fits", "refused"), [
    ("grpo", "resample", [0], [-1]), ("dapo", "resample", [0], [-1]),
    ("grpo", "clip_low", [0.0, 0.99], [-0.1, 1.0]), ("gspo", "clip_low", [0.0, 0.99], [-0.1, 1.0]),
    ("grpo", "clip_high", [0.0], [-0.1]), ("gspo", "clip_high", [0.0], [-0.1]), ("dapo", "clip_high", [0.0], [-0.1]),
    ("grpo", "dual_clip", [1.1], [1.0]), ("cispo", "cap", [0.1], [0.0]),
    ("sapo", "tau_positive", [0.1], [0.0]), ("sapo", "tau_negative", [0.1], [0.0]),
    ("grpo", "tis", [0.1], [0.0]), ("grpo", "mis", [0.1], [0.0]), ("grpo", "off_policy_mask", [0.0], [-0.1]),
    ("grpo", "kl_weight", [0.0], [-0.1]), ("grpo", "entropy_bonus", [0.0], [-0.1]),
    ("grpo", "entropy_tokens", [1], [0]), ("grpo", "entropy_until", [0.1, 1.0], [0.0, 1.1]),
    ("dpo", "beta", [0.1], [0.0]), ("mt_grpo", "turn_weight", [0.0], [-0.1]), ("gigpo", "step_weight", [0.0], [-0.1]),
    ("gigpo", "discount", [0.0, 1.0], [-0.1, 1.1]), ("ppo", "discount", [0.0, 1.0], [-0.1, 1.1]),
    ("ppo", "gae", [0.0, 1.0], [-0.1, 1.1]), ("ppo", "value_weight", [0.1], [0.0]), ("ppo", "value_clip", [0.1], [0.0]),
])  # fmt: skip
def test_settings_have_bounds(name, key, fits, refused):
    for value in fits:
        assert getattr(make_method({"name": name, key: value}), key) == value
    for value in refused:
        with pytest.raises(ValueError, match=rf"method\.{key}: "):
            make_method({"name": name, key: value})


@pytest.mark.parametrize(("name", "usual"), [
    ("grpo", {"clip_low": 0.2, "clip_high": 0.2, "kl_weight": 0.0, "entropy_bonus": 0.0, "resample": 0}),
    ("dapo", {"clip_low": 0.2, "clip_high": 0.28, "resample": 3}), ("gspo", {"clip_low": 3e-4, "clip_high": 4e-4}),
    ("cispo", {"cap": 5.0}), ("sapo", {"tau_positive": 1.0, "tau_negative": 1.05}), ("dpo", {"beta": 0.1}),
    ("rft", {"at_least": 1.0}), ("mt_grpo", {"turn_weight": 1.0}), ("gigpo", {"step_weight": 1.0, "discount": 0.95}),
    ("ppo", {"value_weight": 0.5, "value_clip": 0.2, "discount": 1.0, "gae": 0.95, "whiten": False}),
])  # fmt: skip
def test_what_is_not_set_is_as_usual(name, usual):
    made = make_method({"name": name})
    assert {key: getattr(made, key) for key in usual} == usual


def test_rows_without_advantage_are_needed_where_anything_else_moves_them():
    assert Grpo().gradient_only_from_advantages(0.0)
    assert Sft().gradient_only_from_advantages(0.0)
    assert Grpo(kl_weight=0.1, kl_in="loss").gradient_only_from_advantages(0.0) is False
    fading = Grpo(entropy_bonus=0.1, entropy_until=0.5)
    assert [fading.gradient_only_from_advantages(progress) for progress in (0.0, 0.4, 0.5, 1.0)] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(("key", "besides"), [
    ("max_length", {"aggregation": "constant"}), ("reference_every", {"kl_weight": 0.1}),
])  # fmt: skip
def test_lengths_and_periods_are_at_least_1(key, besides):
    assert getattr(make_method({key: 1, **besides}), key) == 1
    with pytest.raises(ValueError, match=rf"method\.{key}: "):
        make_method({key: 0, **besides})


TOY = """
    from typing import ClassVar
    from grpo_agents.methods import Method

    class Reinforce(Method):
        name: ClassVar[str] = "reinforce"
        scale: float = 1.0

        def loss(self, tokens):
            return -self.scale * (tokens.logprobs * tokens.advantages).sum() / tokens.batch_tokens
"""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy_method.py"
    path.write_text(textwrap.dedent(TOY))
    return f"{path}:Reinforce"


def test_a_users_own_method_needs_no_edit_elsewhere(toy):
    method = make_method({"name": toy, "scale": 2.0})
    ones = torch.ones(4)
    tokens = Tokens(-ones, ones, ones, None, ones, torch.arange(4.0), 4 * ones, *[ones.long()] * 3, 8, 1)
    assert coefficients(method, tokens).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert (method.unit, method.critic, method.most_resamples, method.reference_period) == ("token", None, 0, None)
    assert (method.needs_reference, method.corrects_sampler, method.normalises_by_group) == (False, False, True)
    assert method.gradient_only_from_advantages(0.0) is False  # nothing is left out of a loss that nobody knows
    assert "reinforce" not in available()  # a file of one run is not there for the next


def test_a_users_own_method_has_its_settings_checked(toy):
    with pytest.raises(ValueError, match=r"unknown key method\.scal\. Did you mean 'scale'"):
        make_method({"name": toy, "scal": 2.0})


def test_a_file_without_that_method_is_named(toy):
    with pytest.raises(ValueError, match="defines no 'Reinforced'"):
        make_method({"name": f"{toy}d"})
    with pytest.raises(ValueError, match="there is no file"):
        make_method({"name": "nowhere.py:Reinforce"})
