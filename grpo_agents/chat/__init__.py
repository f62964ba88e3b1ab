"""Messages ⇄ token ids: a prompt is rendered once, sampled ids are appended as they are, and nothing is encoded twice.

A :class:`Chat` knows a model's template, stop tokens and tool-call format; a :class:`Conversation` is one episode::

    conversation = chat.start(messages, tools)
    while …:
        ids, logprobs, finish_reason = engine(conversation.ids)
        message = conversation.assistant(ids, logprobs, finish_reason)
        conversation.observe(environment(message))
    samples = conversation.finished_samples()

Where the template rewrites what was said (Qwen3 drops thinking when the user speaks again, Mistral moves the tools),
a new sample forks off the prefix that both share, and the old one keeps the sampled tokens that are trained.

Below them: ``template`` renders dialogues, ``suffix`` finds what a turn adds to them, ``reading`` makes a message of
sampled ids, ``encoding`` is text ⇄ ids, and ``probes`` holds the messages with which templates are tried out.
"""

from grpo_agents.chat.chat import Chat
from grpo_agents.chat.conversation import Conversation, Turn

__all__ = ["Chat", "Conversation", "Turn"]
