"""Messages and tokens: what the template would write, append only, each sampled token trained once."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from grpo_agents.chat import Chat
from grpo_agents.chat.template import Template
from grpo_agents.support import Support

TEMPLATES = Path(__file__).parent / "chat_templates"
SPECIALS = {
    "chatml": ["<|im_end|>", "<|im_start|>"],
    "qwen3": ["<|im_end|>", "<|im_start|>", "<|endoftext|>"],
    "llama3": [
        "<|eot_id|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|python_tag|>",
        "<|eom_id|>",
    ],
    "mistral": ["</s>", "<s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"],
    "gemma": ["<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
}
BOS = {"llama3": "<|begin_of_text|>", "mistral": "<s>", "gemma": "<bos>"}
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
NAMED = {"chatml": "hermes", "gemma": "hermes"}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
numbers = itertools.count(1)


def make_tokenizer(template, **settings):
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIALS[template],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["user assistant system tool name arguments parameters the answer is 42"] * 9, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, **{"eos_token": SPECIALS[template][0], "bos_token": BOS.get(template), **settings}
    )
    made.add_tokens(MARKERS)
    made.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
    return made


def make_chat(template, **settings):
    return Chat(make_tokenizer(template), **{"tool_format": NAMED.get(template), **settings})


def says(chat, message):
    """What an engine returns when the policy writes what the template would."""
    text = chat.render_assistant(message) + chat.tokenizer.decode([chat.stop_ids[0]])
    ids = chat.tokenizer.encode(text, add_special_tokens=False)
    return ids, [-float(next(numbers)) for _ in ids], "stop"


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


def calling(a, number, **more):
    call = {"id": f"call{number:05d}", "type": "function", "function": {"name": "add", "arguments": {"a": a}}}
    return answer("", tool_calls=[call], **more)


def result(content, number):
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "name": "add", "content": content}


def user(content):
    return {"role": "user", "content": content}


def play(chat, script, tools=(ADD,)):
    """Runs prompt, turns and answers; returns the conversation and every (id, log-prob) sampled."""
    conversation, sampled = chat.start(PROMPT, tools), []
    for said in script:
        if said["role"] == "assistant":
            ids, logprobs, reason = says(chat, said)
            conversation.assistant(ids, logprobs, reason)
            sampled += zip(ids, logprobs, strict=True)
        else:
            conversation.observe([said])
    return conversation, sampled


def trained(samples):
    return [
        (int(token), float(logprob))
        for sample in samples
        for token, logprob in zip(sample.ids[sample.mask], sample.logprobs[sample.mask], strict=True)
    ]


SCRIPT = [calling(1, 0), result("2", 0), calling(7, 1), result('[{"x": "é"}]', 1), answer("It is 2.")]
LONGER = [*SCRIPT, user("Sure?"), answer("Yes.")]


@pytest.mark.parametrize("template", SPECIALS)
def test_ids_decode_to_the_templates_own_rendering(template):
    chat = make_chat(template)
    conversation, _ = play(chat, [*LONGER, user("Really?")])
    rendered = chat.render(conversation.messages, [ADD], generate=True)
    assert chat.tokenizer.decode(conversation.ids, skip_special_tokens=False) == rendered


@pytest.mark.parametrize("template", SPECIALS)
def test_the_first_render_is_the_tokenizers_own_and_bos_is_there_once(template):
    chat = make_chat(template, tool_format=None)
    messages = PROMPT[1:]
    ids = chat.start(messages).ids
    own = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids.tolist() == own
    assert ids.dtype == np.int32
    if template in BOS:
        assert own.count(chat.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("template", SPECIALS)
def test_ids_only_grow_while_tools_answer(template):
    chat = make_chat(template)
    conversation, before = chat.start(PROMPT, [ADD]), np.zeros(0, np.int32)
    for said in SCRIPT:
        if said["role"] == "assistant":
            ids, logprobs, reason = says(chat, said)
            conversation.assistant(ids, logprobs, reason)
            turn = conversation.turns[-1]
            assert conversation.ids[turn.start : turn.stop].tolist() == ids
        else:
            conversation.observe([said])
        assert (conversation.ids[: len(before)] == before).all()
        before = conversation.ids
        assert len(before) == conversation.length
    assert len(conversation.finished_samples()) == 1


@pytest.mark.parametrize("template", SPECIALS)
@pytest.mark.parametrize("thinking", [None, "two fingers"])
def test_each_sampled_token_is_trained_once_with_its_logprob(template, thinking):
    more = {"reasoning_content": thinking} if thinking else {}
    chat = make_chat(template)
    script = [calling(1, 0, **more), result("2", 0), answer("Two.", **more), user("Sure?"), answer("Yes.", **more)]
    conversation, sampled = play(chat, [*script, user("Really?"), answer("Go away.", **more)])
    samples = conversation.finished_samples()
    assert trained(samples) == sampled
    for number, sample in enumerate(samples):
        assert (sample.logprobs[~sample.mask] == 0).all()
        assert not sample.mask[: sample.shared].any()
        if number:
            before = samples[number - 1].ids
            assert (before[: sample.shared] == sample.ids[: sample.shared]).all()
            assert before[sample.shared] != sample.ids[sample.shared]
    for turn in conversation.turns:
        assert samples[turn.sample].mask[turn.start : turn.stop].all()


@pytest.mark.parametrize("template", ["qwen3", "chatml"])
def test_each_sampled_token_keeps_its_support(template):
    """Qwen3 forks where the user speaks; of the turns, the second was not cut."""
    chat = make_chat(template)
    conversation, expected = chat.start(PROMPT, [ADD]), []
    more = {"reasoning_content": "two fingers"}
    for said in [calling(1, 0, **more), result("2", 0), answer("Two.", **more), user("Sure?"), answer("Yes.")]:
        if said["role"] == "assistant":
            ids, logprobs, reason = says(chat, said)
            number = len(conversation.turns)
            could = [[] if number == 1 else [token, *range(place % 3)] for place, token in enumerate(ids)]
            flat = np.array([token for kept in could for token in kept], np.int32)
            support = Support(flat, np.array([len(kept) for kept in could], np.int32)) if number != 1 else None
            conversation.assistant(ids, logprobs, reason, support)
            expected += could
        else:
            conversation.observe([said])
    samples = conversation.finished_samples()
    assert len(samples) == {"qwen3": 2, "chatml": 1}[template]
    found = []
    for sample in samples:
        assert len(sample.support.counts) == len(sample.ids)
        assert not sample.support.counts[~sample.mask].any()
        found += [part.ids.tolist() for part in sample.support.at(np.flatnonzero(sample.mask)).split(1)]
    assert found == expected


def test_qwen3_forks_when_the_user_speaks_after_thinking_and_the_answer_keeps_its_sampled_ids():
    chat = make_chat("qwen3")
    conversation = chat.start(PROMPT)
    text = "<think>\nhm\n</think>\n\n"
    odd = [chat.tokenizer.convert_tokens_to_ids(letter) for letter in "42"]  # not how an encoder splits "42"
    assert odd != chat.tokenizer.encode("42")
    ids = [*chat.tokenizer.encode(text), *odd, chat.stop_ids[0]]
    message = conversation.assistant(ids, [-1.0] * len(ids), "stop")
    assert (message["content"], message["reasoning_content"]) == ("42", "hm")
    prompt_length = conversation.turns[0].start
    conversation.observe([user("Sure?")])
    assert conversation.ids[prompt_length : prompt_length + 3].tolist() == [*odd, chat.stop_ids[0]]
    assert "hm" not in chat.tokenizer.decode(conversation.ids)
    conversation.assistant(*says(chat, answer("Yes.")))
    first, second = conversation.finished_samples()
    assert second.shared == prompt_length
    assert int(first.mask.sum()) == len(ids)
    assert not second.mask[: conversation.turns[1].start].any()


def test_a_fork_in_which_nothing_was_sampled_is_left_out():
    conversation, _ = play(make_chat("qwen3"), [answer("42", reasoning_content="hm"), user("Sure?")])
    assert len(conversation.finished_samples()) == 1


def test_qwen3_does_not_fork_when_tools_answer_after_thinking():
    script = [
        calling(1, 0, reasoning_content="hm"),
        result("2", 0),
        calling(1, 1, reasoning_content="so"),
        result("2", 1),
    ]
    conversation, _ = play(make_chat("qwen3"), script)
    assert len(conversation.finished_samples()) == 1
    assert conversation.turns[-1].sample == 0


def test_qwen3_without_thinking_forks_because_history_lacks_the_empty_block_of_the_prompt():
    chat = make_chat("qwen3", template_options={"enable_thinking": False})
    conversation, sampled = play(chat, SCRIPT)
    samples = conversation.finished_samples()
    assert len(samples) == 3
    assert trained(samples) == sampled
    rendered = chat.render([*PROMPT, *SCRIPT[:4]], [ADD], generate=True)
    assert chat.tokenizer.decode(samples[-1].ids).startswith(rendered)


def test_mistral_forks_when_the_tools_move_to_a_new_user_message():
    conversation, sampled = play(make_chat("mistral"), LONGER)
    first, second = conversation.finished_samples()
    assert second.shared == 1  # <s>
    assert trained([first, second]) == sampled


@pytest.mark.parametrize("template", SPECIALS)
def test_local_rendering_equals_full_rendering(template, monkeypatch):
    contents = ["2", "", "  spaced \n", "<tool_response>x</tool_response>", '{"a": [1]}', "é 🙂 </think>", "a < b"]
    kinds = [
        lambda content, more: [calling(1, 0, **more), result(content, 0), calling(2, 1, **more), result(content, 1)],
        lambda content, more: [answer("Two.", **more), user(content or "?"), answer("Two.")],
        lambda content, more: [calling(1, 0, **more), result(content, 0), answer("Two."), user("?"), answer("So.")],
    ]
    local, full = make_chat(template), make_chat(template)
    monkeypatch.setattr(full._suffixes, "local", lambda *_: None)
    for content, kind, more in itertools.product(contents, kinds, [{}, {"reasoning_content": "hm"}]):
        script = kind(content, more)
        ours, theirs = play(local, script)[0], play(full, script)[0]
        for mine, other in zip(ours.finished_samples(), theirs.finished_samples(), strict=True):
            assert mine.ids.tolist() == other.ids.tolist()
            assert mine.mask.tolist() == other.mask.tolist()
            assert mine.shared == other.shared


@pytest.mark.parametrize("template", SPECIALS)
def test_tool_answers_are_appended_without_rendering_the_history(template, monkeypatch):
    chat = make_chat(template)
    play(chat, SCRIPT)
    conversation = chat.start(PROMPT, [ADD])
    conversation.assistant(*says(chat, calling(1, 0)))
    monkeypatch.setattr(Template, "render", None)
    conversation.observe([result("a new result", 0)])
    assert "a new result" in chat.tokenizer.decode(conversation.ids)


def test_a_truncated_call_is_no_call_even_if_it_is_complete():
    chat = make_chat("qwen3")
    ids = says(chat, calling(1, 0))[0][:-1]
    assert "tool_calls" in chat.parse(ids, "stop")
    message = chat.parse(ids, "length")
    assert "tool_calls" not in message
    assert "<tool_call>" in message["content"]


@pytest.mark.parametrize("template", SPECIALS)
def test_a_truncated_turn_gets_the_end_of_turn_untrained(template):
    chat = make_chat(template)
    conversation = chat.start(PROMPT[1:])
    ids = says(chat, answer("It is"))[0][:-1]
    conversation.assistant(ids, [-1.0] * len(ids), "length")
    conversation.observe([user("Go on.")])
    turn = conversation.turns[0]
    assert conversation.ids[turn.stop] == chat.stop_ids[0]
    assert chat.tokenizer.decode(conversation.ids) == chat.render(conversation.messages, generate=True)
    (sample,) = conversation.finished_samples()
    assert sample.mask.sum() == len(ids)


def test_call_ids_count_over_the_conversation_and_markers_that_are_special_are_seen():
    chat = make_chat("mistral")
    conversation, _ = play(chat, SCRIPT[:4])
    assert [turn.message["tool_calls"][0]["id"] for turn in conversation.turns] == ["call00000", "call00001"]
    assert conversation.turns[0].message["content"] == ""


def test_where_the_template_takes_one_call_the_others_are_refused_with_the_reason():
    chat = make_chat("llama3")
    ids = chat.tokenizer.encode(
        '{"name": "add", "parameters": {"a": 1}}; {"name": "sub", "parameters": {"a": 2}}<|eot_id|>'
    )
    conversation = chat.start(PROMPT, [ADD])
    first, second = conversation.assistant(ids, [-1.0] * len(ids), "stop")["tool_calls"]
    assert "invalid" not in first
    assert second["function"]["name"] == "sub"
    assert "one call a message" in second["invalid"]
    conversation.observe([result("2", 0), result("Error: one call a message", 1)])
    assert len(conversation.finished_samples()) == 1


def test_calls_written_otherwise_than_the_template_would_do_not_fork():
    chat = make_chat("qwen3")
    for thinking in ("", "<think>hm</think>"):
        text = thinking + ' <tool_call>{"arguments":{"a":1},"name":"add"}</tool_call><|im_end|>'
        ids = chat.tokenizer.encode(text)
        conversation = chat.start(PROMPT, [ADD])
        conversation.assistant(ids, [-1.0] * len(ids), "stop")
        conversation.observe([result("<tool_response> 2", 0)])
        assert len(conversation._drafts) == 1
        conversation = chat.start(PROMPT, [ADD])
        conversation.assistant(ids, [-1.0] * len(ids), "stop")
        conversation.observe([result("2", 0)])
        assert len(conversation._drafts) == 1


def test_a_turn_that_ended_in_another_stop_token_keeps_its_answer_in_a_fork():
    tokenizer = make_tokenizer("qwen3", eos_token="<|endoftext|>")
    chat = Chat(tokenizer)
    odd = [tokenizer.convert_tokens_to_ids(letter) for letter in "42"]
    ids = [*tokenizer.encode("<think>\nhm\n</think>\n\n"), *odd, tokenizer.eos_token_id]
    conversation = chat.start(PROMPT)
    conversation.assistant(ids, [-1.0] * len(ids), "stop")
    conversation.observe([user("Sure?")])
    start = conversation.turns[0].start
    assert conversation.ids[start : start + 3].tolist() == [*odd, tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_a_demonstration_takes_arguments_as_json_text_and_keeps_its_own_call_ids():
    chat = make_chat("mistral")
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    told = {"role": "tool", "tool_call_id": "abcdefghi", "content": "2"}
    conversation = chat.demonstration([*PROMPT, answer(None, tool_calls=[call]), told, answer("Two.")], [ADD])
    text = chat.tokenizer.decode(conversation.ids)
    assert '{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}' in text
    assert '"call_id": "abcdefghi"' in text


def test_stray_special_tokens_are_no_content():
    chat = make_chat("qwen3")
    ids = chat.tokenizer.encode("one<|endoftext|>two<|im_end|>")
    assert chat.parse(ids, "stop") == answer("onetwo")


@pytest.mark.parametrize("template", SPECIALS)
def test_a_broken_call_is_marked_and_its_message_goes_back_through_the_template(template):
    chat = make_chat(template)
    text = {"mistral": "[TOOL_CALLS]{oops", "llama3": '{"name": oops'}.get(template, "<tool_call>{oops</tool_call>")
    ids = [*chat.tokenizer.encode(text, add_special_tokens=False), chat.stop_ids[0]]
    conversation = chat.start(PROMPT, [ADD])
    message = conversation.assistant(ids, [-1.0] * len(ids), "stop")
    (call,) = message["tool_calls"]
    assert call["id"] == "call00000"
    assert call["invalid"]
    conversation.observe([result("Error: unreadable", 0)])
    conversation.assistant(*says(chat, answer("Sorry.")))
    conversation.observe([user("Again.")])
    decoded = chat.tokenizer.decode(conversation.ids)
    assert "oops" in decoded
    assert "Error: unreadable" in decoded


@pytest.mark.parametrize("template", ["gemma", "chatml"])
def test_a_template_without_tools_says_how_to_name_a_format(template):
    chat = make_chat(template, tool_format=None)
    with pytest.raises(ValueError, match=r"no place for tools: choose one by name, chat\.tool_format = 'mistral' \|"):
        chat.start(PROMPT, [ADD])


@pytest.mark.parametrize("tool_format", ["hermes", "llama3", "mistral", "pythonic"])
def test_a_named_format_brings_schemas_calls_and_results_as_plain_text(tool_format):
    chat = make_chat("gemma", tool_format=tool_format)
    conversation, _ = play(chat, SCRIPT)
    text = chat.tokenizer.decode(conversation.ids)
    assert text.startswith("<bos><start_of_turn>user\nBe brief.")
    assert '"description": "Adds."' in text
    assert "<start_of_turn>user\n<tool_response>\n2\n</tool_response><end_of_turn>" in text
    assert conversation.turns[0].message["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}


def test_no_chat_template_and_unknown_formats_name_the_config_key():
    bare = make_tokenizer("chatml")
    bare.chat_template = None
    with pytest.raises(ValueError, match=r"set chat\.template"):
        Chat(bare)
    with pytest.raises(ValueError, match=r"chat\.tool_format 'xml' is unknown; choose one of"):
        make_chat("chatml", tool_format="xml")


def test_messages_that_the_template_refuses_are_named_by_role():
    with pytest.raises(ValueError, match="refuses messages of the roles user, user: Conversation roles must alternate"):
        make_chat("gemma", tool_format=None).start([user("a"), user("b")])


def test_the_turn_end_of_the_template_stops_as_well_as_eos_and_pads_a_tokenizer_without_pad():
    tokenizer = make_tokenizer("gemma")
    assert tokenizer.pad_token_id is None
    chat = Chat(tokenizer)
    assert tokenizer.convert_ids_to_tokens(chat.stop_ids) == ["<end_of_turn>", "<eos>"]
    assert chat.pad_id in chat.stop_ids
    assert (
        Chat(make_tokenizer("qwen3", pad_token="<|endoftext|>")).pad_id == tokenizer.convert_tokens_to_ids("<bos>") + 1
    )


def test_a_demonstration_is_what_sampling_the_same_dialogue_would_give():
    for template in SPECIALS:
        chat = make_chat(template)
        shown = chat.demonstration([*PROMPT, *LONGER, user("left out")], [ADD])
        sampled, _ = play(chat, LONGER)
        for mine, other in zip(shown.finished_samples(), sampled.finished_samples(), strict=True):
            assert mine.ids.tolist() == other.ids.tolist()
            assert mine.mask.tolist() == other.mask.tolist()
        assert shown.prompt == tuple(PROMPT)


def test_a_demonstration_trains_by_part_and_keeps_the_ids_of_the_whole_text():
    chat = make_chat("qwen3")
    parts = [
        {"type": "text", "text": "the ans", "loss": False},
        {"type": "text", "text": "wer is "},
        {"type": "text", "text": "42", "loss": False},
    ]
    (sample,) = chat.demonstration([*PROMPT, answer(parts)]).finished_samples()
    (whole,) = chat.demonstration([*PROMPT, answer("the answer is 42")]).finished_samples()
    assert sample.ids.tolist() == whole.ids.tolist()
    assert chat.tokenizer.decode(sample.ids[sample.mask], skip_special_tokens=False) == " is<|im_end|>"


def test_a_demonstration_needs_an_assistant_and_parts_that_the_template_writes():
    chat = make_chat("qwen3")
    with pytest.raises(ValueError, match="needs a prompt and an assistant message"):
        chat.demonstration(PROMPT)
    parts = [{"type": "text", "text": "out <think>a</think>"}, {"type": "text", "text": "b"}]
    with pytest.raises(ValueError, match="does not write the part 'out <think>a</think>'"):
        chat.demonstration([*PROMPT, answer(parts)])


def test_the_rollouts_of_a_group_share_one_rendering(monkeypatch):
    chat = make_chat("llama3")
    first = chat.start(PROMPT, [ADD]).ids
    monkeypatch.setattr(Template, "render", None)
    assert chat.start([dict(message) for message in PROMPT], [ADD]).ids.tolist() == first.tolist()


def test_a_conversation_refuses_what_does_not_fit():
    chat = make_chat("chatml")
    conversation = chat.start(PROMPT)
    with pytest.raises(ValueError, match="answers an assistant turn"):
        conversation.observe([user("a")])
    with pytest.raises(ValueError, match=r"ids of shape \(2,\), log-probs of shape \(1,\)"):
        conversation.assistant([1, 2], [0.0], "stop")


def test_importing_loads_neither_torch_nor_transformers():
    code = "import sys, grpo_agents.chat; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
