"""The member at the desk: what it says, when, and when it leaves; as a script and as a language model."""

import asyncio

import numpy as np
import pytest

from grpo_agents.engines import EngineFailure
from grpo_agents.engines.chat_model import Answer, ScriptedModel
from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.envs.library_desk.model_user import GREETING, STOP, ModelUser, instructions
from grpo_agents.envs.library_desk.oracle import QUESTIONS, oracle
from grpo_agents.envs.library_desk.user import ABOUT, PATIENCE, UNKNOWN, ScriptedUser, asked_about

TASK = {
    "user": {
        "name": "Ada Berg",
        "says": "Hello, I am Ada Berg.",
        "details": {"born": "I was born on 1980-05-17."},
        "answers": {"name": "My name is Ada Berg."},
    },
    "wishes": [
        {
            "says": 'I would like to borrow "The Salt Road".',
            "details": {"format": 'I would like "The Salt Road" in paperback.'},
            "answers": {"lend": 'I would like to borrow "The Salt Road".'},
            "later": False,
        },
        {
            "says": "I have a new e-mail address.",
            "details": {"email": "It is a@b.example."},
            "answers": {},
            "later": True,
        },
    ],
}
SECRETS = ("1980-05-17", "paperback", "a@b.example", "e-mail")


@pytest.fixture
def user():
    return ScriptedUser(TASK, np.random.default_rng(0))


def test_it_begins_with_its_wishes_and_keeps_the_rest(user):
    assert user.opening() == 'Hello, I am Ada Berg. I would like to borrow "The Salt Road".'


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("When were you born?", "I was born on 1980-05-17."),
        ("Please tell me your date of birth.", "I was born on 1980-05-17."),
        ("I need your DOB", "I was born on 1980-05-17."),
        ("Which format would you like?", 'I would like "The Salt Road" in paperback.'),
        ("Hardback or paperback?", 'I would like "The Salt Road" in paperback.'),
        ("What is your card number?", UNKNOWN["card"]),
        ("Could I have your name and date of birth?", "My name is Ada Berg. I was born on 1980-05-17."),
        ("Will you pay the fines now?", UNKNOWN["pay"]),
        ("Shall I put a hold on it?", UNKNOWN["hold"]),
        ("Do you want to return it?", UNKNOWN["return"]),
        ("What is your e-mail?", UNKNOWN["email"]),  # of what it has not spoken of yet, it knows nothing
    ],
)
def test_it_answers_what_it_is_asked(user, said, answer):
    reply = user.reply(said)
    assert (reply.text, reply.leaves) == (answer, False)


@pytest.mark.parametrize(
    "said",
    ["Welcome to the library!", "How can I help you?", "Shall I go ahead?", "tree", "", "I know you were born once."],
)
def test_it_tells_nothing_that_it_was_not_asked(user, said):
    assert not [secret for secret in SECRETS if secret in user.reply(said).text]


def test_it_says_yes_to_what_is_no_question_about_anything(user):
    assert user.reply("Shall I go ahead?").text.startswith("Yes")
    assert user.reply("Is that right?").text.startswith("Yes")


def test_a_later_wish_comes_when_the_rest_is_done_and_then_it_leaves(user):
    first = user.reply("Done! Is there anything else?")
    assert (first.text, first.leaves) == ("One more thing. I have a new e-mail address.", False)
    assert user.reply("What is your new e-mail address?").text == "It is a@b.example."
    last = user.reply("That is done.")
    assert "Goodbye" in last.text
    assert last.leaves


def test_a_question_goes_before_being_done(user):
    assert user.reply("The loan is done. When were you born?").text == "I was born on 1980-05-17."


def test_its_patience_ends(user):
    replies = [user.reply("tree") for _ in range(PATIENCE)]
    assert [reply.leaves for reply in replies] == [False] * (PATIENCE - 1) + [True]
    again = ScriptedUser(TASK, np.random.default_rng(0))
    for _ in range(3):  # what it can answer gives it back
        assert not again.reply("tree").leaves
        assert not again.reply("tree").leaves
        assert not again.reply("What is your name?").leaves


def test_the_same_seed_is_the_same_member():
    said = ["Shall I go ahead?", "tree", "Okay?", "Is that right?", "May I?", "done", "done"]

    def replies(seed):
        member = ScriptedUser(TASK, np.random.default_rng(seed))
        return [member.reply(text).text for text in said]

    assert replies(3) == replies(3)
    assert len({tuple(replies(seed)) for seed in range(20)}) > 1


def test_every_topic_is_noticed_and_has_an_answer():
    assert ABOUT.keys() == UNKNOWN.keys()
    assert all(topic in asked_about(question) for topic, question in QUESTIONS.items())
    assert asked_about("Your card is valid.") == []


def test_details_of_generated_tasks_are_kept_until_asked_for():
    source = LibraryDeskEnv(levels=[4, 5]).task_source
    for number in range(60):
        task = source[number]
        member = ScriptedUser(task, np.random.default_rng(0))
        said = member.opening()
        parts = [task["user"], *(wish for wish in task["wishes"] if not wish["later"])]
        for part in parts:
            assert not [text for text in part["details"].values() if text in said]
            for topic, text in part["details"].items():
                assert text in member.reply(QUESTIONS[topic]).text


# Played by a language model


def model_env(script, **options):
    return LibraryDeskEnv(user=ScriptedModel(script), **options)


def test_a_model_is_told_what_its_member_knows():
    told = instructions(TASK)
    assert "You are Ada Berg" in told
    first, _, rest = told.partition("only when you are asked")
    assert 'I would like to borrow "The Salt Road".' in first
    assert not [secret for secret in SECRETS if secret in first]
    details, _, later = rest.partition("When all of that is done")
    assert "I was born on 1980-05-17." in details
    assert "It is a@b.example." in details
    assert "I have a new e-mail address." in later
    assert STOP in later


def test_a_model_hears_the_agent_as_its_user_and_leaves_by_the_stop_word():
    heard = []

    def script(messages):
        heard.append([(message["role"], message["content"]) for message in messages])
        return "Hello, I am Ada." if len(messages) == 2 else f"Thank you, goodbye. {STOP}"

    env = model_env(script, levels=[1])
    observation, info = env.reset(seed=0)
    assert observation[-1] == {"role": "user", "content": "Hello, I am Ada."}
    (observation, _, terminated, _, end) = env.step("It is done.")
    assert observation[0]["content"] == "Thank you, goodbye."
    assert (terminated, end["rewards"]["outcome"]) == (True, 0.0)
    assert heard[0][0][0] == "system"
    assert info["task"]["wishes"][0]["says"] in heard[0][0][1]
    assert heard[1][1:] == [("user", GREETING), ("assistant", "Hello, I am Ada."), ("user", "It is done.")]


def test_right_actions_are_right_whoever_plays_the_member():
    def script(messages):
        return STOP if "Goodbye" in messages[-1]["content"] else "Go on."

    env = model_env(script, levels=[5])
    for seed in range(10):
        _, info = env.reset(seed=seed)
        *_, (_, _, terminated, _, end) = [env.step(message) for message in oracle(info["task"])]
        assert (terminated, end["rewards"]) == (True, {"outcome": 1.0, "progress": 1.0})


class Failing:
    """A model that cannot be asked, or that has nothing to say."""

    def __init__(self, answer):
        self.answer = answer

    async def complete(self, messages, tools=(), **settings):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (EngineFailure("the server is gone"), EngineFailure, "the server is gone"),
        (Answer({"role": "assistant", "content": "  "}), ValueError, "plays the user said nothing$"),
        (Answer({"role": "assistant", "content": ""}, "length"), ValueError, "said nothing: it ran out of tokens"),
    ],
)
def test_what_a_model_fails_of_is_raised(answer, error, said):
    with pytest.raises(error, match=said):
        LibraryDeskEnv(user=Failing(answer)).reset(seed=0)
    member = ModelUser(Failing(answer), TASK, np.random.default_rng(0))
    with pytest.raises(error, match=said):
        member.reply("Hello?")


def test_a_model_is_asked_also_where_an_event_loop_runs():
    async def within():
        env = model_env(lambda messages: "Hello.", levels=[1])
        return env.reset(seed=0)[0][-1]["content"]

    assert asyncio.run(within()) == "Hello."


def test_a_user_may_be_named_by_its_file(tmp_path):
    path = tmp_path / "member.py"
    path.write_text(
        "from grpo_agents.engines.chat_model import ScriptedModel\n"
        "member = ScriptedModel(lambda messages: 'Good morning.')\n"
    )
    assert LibraryDeskEnv(user=f"{path}:member").reset(seed=0)[0][-1]["content"] == "Good morning."
