"""Updates of every kind, at however many ranks: the test makes them alone, and two processes of torchrun together.

python -m torch.distributed.run --nproc-per-node 2 tests/learner/ranked.py OUT writes what the first rank found; tests/
and tests/learner/ have to be on PYTHONPATH.
"""

import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tiny import make_model, sampled
from updates import gradients

from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.ranks import Ranks, begin, follow, whole
from grpo_agents.learner.settings import LearnerConfig, OptimizerConfig
from grpo_agents.methods.dpo import Dpo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.gspo import Gspo
from grpo_agents.methods.ppo import Ppo

VOCAB = 97
CASES = {
    "grpo": (Grpo(kl_weight=0.1), {}),
    "adapter": (Grpo(kl_weight=0.1, aggregation="token"), {}),
    "small": (Grpo(entropy_bonus=0.1), {"max_tokens": 30}),
    "sequences": (Gspo(), {"max_tokens": 60}),
    "groups": (Dpo(beta=0.4), {}),
    "head": (Ppo(kl_weight=0.05), {}),
    "critic": (Ppo(kl_weight=0.05, value_model="separate"), {"max_tokens": 40}),
    "muon": (Grpo(), {"optimizer": OptimizerConfig(name="muon", lr=1e-2)}),
    "float16": (Grpo(), {}),
    "checkpointed": (Grpo(), {"gradient_checkpointing": True}),
}


def trajectories(pairs=False):
    """Ragged ones of 5 groups of 2, or a single pair, which leaves the second rank nothing to do."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(2 if pairs else 10):
        turns = [(int(rng.integers(1, 5)), int(rng.integers(1, 4))) for _ in range(rng.integers(1, 4))]
        advantage = (1.0, -1.0)[number % 2] if pairs else float(rng.normal())
        prompt = int(rng.integers(1, 7))
        found.append(sampled(rng, VOCAB, prompt, turns, advantage=advantage, group=number // 2, index=number % 2))
    return found


def make_learner(name):
    """A learner of the case, and its batch."""
    method, settings = CASES[name]
    model = make_model(vocab=VOCAB)
    if name == "adapter":
        torch.manual_seed(3)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    config = LearnerConfig(**{"optimizer": OptimizerConfig(lr=1e-2), "old_logprobs": "recompute", **settings})
    dtype = "float16" if name == "float16" else "float32"
    learner = Learner(model, config, method, source="stored", steps=10, dtype=dtype, ranks=Ranks())
    return learner, make_batch(trajectories(pairs=name == "groups"))


def run(name):
    """What a case comes to: gradients, figures, weights after two updates, and the state of the optimiser."""
    learner, batch = make_learner(name)
    learner.prepare(batch)
    found = {f"gradient|{key}": whole(value) for key, value in gradients(learner, batch).items()}
    figures = [learner.update(batch, 0.0) for _ in range(2)]
    for number, some in enumerate(figures):
        found |= {f"figure|{number}|{key}": torch.tensor(value) for key, value in some.items()}
    found |= {f"weight|{key}": whole(value.detach()) for key, value in learner.optimizer.named.items()}
    found |= {f"state|{key}": value for key, value in learner.optimizer.state().items()}
    return {f"{name}|{key}": value.clone() for key, value in found.items()}


def led():
    """Calls of the first rank, which the others follow: a batch learned, and its rows scored."""
    learner, batch = make_learner("grpo")
    if learner.ranks.rank > 0:
        follow(learner)
        return {}
    figures = learner.learn(batch, version=0, progress=0.0)
    scores = learner.score(batch.rows)
    learner.ranks.close()
    found = {f"led|figure|{key}": torch.tensor(value) for key, value in figures.items()}
    order = {id(row): place for place, row in enumerate(batch.rows)}
    return found | {f"led|score|{order[id(row)]}": torch.from_numpy(values.copy()) for row, values in scores}


def spoiled():
    """Rows of one rank, or of two, are not a number: what is said and moved at any of them."""
    found = {}
    for name, rows in (("one", [3]), ("both", range(10))):
        learner, batch = make_learner("small")
        learner.prepare(batch)
        learner.update(batch, 0.0)
        before = {key: whole(value.detach()).clone() for key, value in learner.optimizer.named.items()}
        state = {key: value.clone() for key, value in learner.optimizer.state().items()}
        for row in rows:
            batch.rows[row].old = np.full_like(batch.rows[row].old, np.nan)
        figures = learner.update(batch, 0.0)
        same = [torch.equal(whole(value.detach()), before[key]) for key, value in learner.optimizer.named.items()]
        same += [torch.equal(value, state[key]) for key, value in learner.optimizer.state().items()]
        said = set(learner.ranks.gather((learner.not_finite, figures["skipped/non_finite"], learner.updates)))
        words = repr([*said, all(same)]).encode()
        found[f"spoiled|{name}"] = torch.frombuffer(bytearray(words), dtype=torch.uint8)
    return found


def refused():
    """What is said of moments in 8 bits, where ranks hold shards."""
    config = LearnerConfig(optimizer=OptimizerConfig(name="adamw8bit"))
    try:
        Learner(make_model(vocab=VOCAB), config, Grpo(), steps=10, ranks=Ranks())
    except ValueError as error:
        return {"refused": torch.frombuffer(bytearray(str(error).encode()), dtype=torch.uint8)}
    return {}


def main(out):
    """Runs every case and writes what came out."""
    torch.set_num_threads(1)
    begin()
    found = {key: value for name in CASES for key, value in run(name).items()} | led() | spoiled() | refused()
    if Ranks().rank == 0:
        save_file(found, out)


if __name__ == "__main__":
    main(sys.argv[1])
