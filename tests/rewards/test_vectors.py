"""What a vector is made of: objects of a person's file, and names."""

import pytest

from grpo_agents.rewards import as_vector, component, cost
from grpo_agents.rewards.component import Component, RewardVector, from_environment

GIVEN = {"outcome": from_environment("outcome")}


@component
def brevity(trajectory):
    return 1.0


@pytest.mark.parametrize("found", [brevity, [brevity], (brevity,), RewardVector([brevity])])
def test_a_vector_a_component_and_a_list_of_them_will_do(found):
    assert list(as_vector(found, GIVEN, "mine")) == [brevity]


def test_a_name_means_the_same_in_python_as_in_a_config():
    for found in (["outcome", "cost"], RewardVector(["outcome", "cost"])):
        assert list(as_vector(found, GIVEN, "mine")) == [from_environment("outcome"), cost]
    assert list(as_vector(["cost"], {"cost": from_environment("cost")}, "mine")) == [from_environment("cost")]


def test_a_component_of_the_environment_may_have_a_direction():
    mistakes = Component("mistakes", None, "min", "mistakes")
    given = {"mistakes": from_environment("mistakes")}
    assert list(as_vector([mistakes], given, "mine")) == [mistakes]
    assert list(as_vector(["mistakes"], {"mistakes": mistakes}, "mine")) == [mistakes]  # as it is stored


@pytest.mark.parametrize("found", [["outcom"], RewardVector(["outcom"]), Component("outcom", None, "min")])
def test_a_name_that_nobody_knows_is_refused(found):
    with pytest.raises(ValueError, match=r"unknown reward 'outcom'\. Did you mean 'outcome'\?"):
        as_vector(found, GIVEN, "mine")


@pytest.mark.parametrize(
    ("found", "said"), [(len, "builtin_function"), (lambda _: 1.0, "not a function: write @component"), ([7], "int")]
)
def test_what_makes_no_vector_is_refused(found, said):
    with pytest.raises(ValueError, match=rf"mine: a RewardVector, a component or a list of them is wanted.*{said}"):
        as_vector(found, GIVEN, "mine")
