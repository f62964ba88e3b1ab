"""TRL's GRPO trainer on recorded token ids: what its learner costs, without any sampling."""

from __future__ import annotations

import os
import string
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from learner_work import Work, rewards
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def make_trainer(model: PreTrainedModel, work: Work, steps: int) -> Any:
    """A trainer whose every step learns from the same episodes: all groups in one batch, as it pads them."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    scores = [reward for group in rewards(work) for reward in group]
    trainer = GRPOTrainer(
        model=model,
        processing_class=_tokenizer(),
        reward_funcs=lambda completions, **_: scores[: len(completions)],
        train_dataset=Dataset.from_list([{"prompt": "x"}] * (len(work) * steps)),
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(scores), num_generations=len(work[0]),
            max_completion_length=8192, max_steps=steps, learning_rate=1e-4, report_to=[], bf16=False,
            use_cpu=model.device.type == "cpu", gradient_checkpointing=False, beta=0.0, loss_type="bnpo",
            save_strategy="no", logging_steps=steps + 1, disable_tqdm=True,
        ),
    )  # fmt: skip
    episodes = [episode for group in work for episode in group]
    recorded = (
        [prompt.tolist() for prompt, _, _ in episodes],
        [rest.tolist() for _, rest, _ in episodes],
        [sampled.astype(int).tolist() for _, _, sampled in episodes],
        [""] * len(episodes),
        None,
        {},
        None,
        None,
    )
    trainer._generate = lambda prompts: recorded  # type: ignore[method-assign]  # what sampling would have returned
    return trainer


def run(model: PreTrainedModel, work: Work, repeats: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Seconds of each step but the first, and the gradient of the first by parameter."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    trainer = make_trainer(model, work, repeats + 1)
    step, seconds, first = trainer.training_step, [], {}

    def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
        began = time.perf_counter()
        loss = step(*args, **kwargs)
        seconds.append(time.perf_counter() - began)
        if len(seconds) == 1:
            first.update({name: value.grad.clone() for name, value in model.named_parameters()})
        return loss

    trainer.training_step = timed  # type: ignore[method-assign]
    trainer.train()
    return seconds[1:], first


def _tokenizer() -> PreTrainedTokenizerFast:
    """One that TRL accepts; it decodes what nobody reads."""
    vocabulary = {text: number for number, text in enumerate(["<pad>", "<eos>", *string.printable])}
    raw = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>")
