"""What a run costs: floating-point operations, bytes of memory, bytes on disk. Pure functions, numbers in, numbers out.

A multiplication and an addition are two operations. Counted are matrix products, as is usual; norms, activation
functions, the softmax and the optimiser's arithmetic are left out. What is counted is what this package does:
trained weights and moments are float32, log π_old is the engine's unless asked for, the output layer is applied to
trained tokens alone, a prompt that rollouts share is sampled from once, and the learner computes each different prefix
of a micro-batch once (an architecture that cannot share them is padded, and costs more).
Scores of attention that a kernel computes again for its own backward pass are left out.
A reward model reads every sampled episode once, also those of evaluations, and is taken to make as many tokens of it.

>>> {name: (recipe.flops, recipe.bytes) for name, recipe in TEXTBOOK.items()}["GRPO"]
(14.0, 20)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from grpo_agents.learner.eight_bit import moment_bytes
from grpo_agents.methods import Method, available
from grpo_agents.workload import Work, Workload, episodes

if TYPE_CHECKING:
    from grpo_agents.config import Config

FLOAT32 = 4
"""Bytes of a trained weight, its gradient and each moment, whatever the model computes in."""

When = Literal["always", "learning", "retraining", "sampling"]
"""When memory is taken; ``retraining``: while the reward model learns, after the policy has."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How many weights there are.

    Attributes:
        count: All, tied ones once.
        adapters: Those of LoRA among them.
        trained: Those with a gradient.
        muon: Of these, those that Muon would take.
        eight_bit: Bytes of the moments of the trained ones, in 8 bits and their scales.
    """

    count: int
    adapters: int
    trained: int
    muon: int
    eight_bit: int


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a model is; :func:`grpo_agents.learner.shape.load_shape` reads it.

    Attributes:
        policy: Its weights.
        decoder: Those below the output layer, which a critic of its own begins with.
        matrices: Weights that every token is multiplied by below the output layer, adapters apart.
        adapters: The same of LoRA.
        last: Those of each layer's last matrix, which is not computed again where activations are.
        vocabulary: Rows of the output layer.
        hidden: Its columns.
        layers: How many there are.
        width: d = heads · head_dim, which need not be ``hidden``.
        cached: Key-value heads · head_dim.
        context: Tokens that fit.
    """

    policy: Weights
    decoder: Weights
    matrices: float
    adapters: float
    last: float
    vocabulary: int
    hidden: int
    layers: int
    width: int
    cached: int
    context: int

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.vocabulary * self.hidden


def forward(shape: Shape, work: Work, *, adapters: bool = True) -> float:
    """Operations of a forward pass: 2 · weights · tokens + 2 · output layer · heads + 4 · layers · d · pairs."""
    weights = shape.matrices + (shape.adapters if adapters else 0)
    return 2 * weights * work.tokens + 2 * shape.head * work.heads + 4 * shape.layers * shape.width * work.pairs


def training(shape: Shape, work: Work, *, checkpointing: bool = False) -> float:
    """Operations of forward and backward pass.

    A backward pass is two forward passes of the trained weights (gradients of weights and of inputs), one of frozen
    ones (of inputs), and two of attention: 6N a token with all weights. ``checkpointing`` computes the layers forward
    once more (8N), but for the last matrix of each, whose output no gradient needs. The output layer is computed once
    more in any case, as logits are not kept.
    """
    layers = replace(work, heads=0.0)
    frozen = shape.policy.adapters > 0
    passes = 2 * forward(shape, layers) - (2 * shape.matrices * work.tokens if frozen else 0)
    again = forward(shape, layers) - (0 if frozen else 2 * shape.last * work.tokens) if checkpointing else 0.0
    head = 2 * shape.head * work.heads * (3 if frozen else 4)
    return forward(shape, layers) + passes + again + head


def critic_forward(shape: Shape, work: Work, kind: Literal["head", "model"]) -> float:
    """Operations of a critic: one number from each trained token's hidden state, and where it is a model its layers."""
    layers = forward(shape, replace(work, heads=0.0)) if kind == "model" else 0.0
    return layers + 2 * shape.hidden * work.heads


def critic_training(shape: Shape, work: Work, kind: Literal["head", "model"], *, checkpointing: bool = False) -> float:
    """The same forward and backward."""
    value = 2 * shape.hidden * work.heads
    if kind == "head":
        return 3 * value
    return 3 * value + training(shape, replace(work, heads=0.0), checkpointing=checkpointing)


@dataclass(frozen=True, slots=True)
class Phase:
    """Operations of a part of a run.

    Attributes:
        name: Which part.
        tokens: Tokens that go through layers, one time.
        flops: Operations, one time.
        times: How often in the run.
    """

    name: str
    tokens: float
    flops: float
    times: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory: what they hold, how many, and when."""

    name: str
    bytes: float
    when: When


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes on disk: what, how many each, how many of them."""

    name: str
    bytes: float
    count: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run costs.

    Attributes:
        parameters: N of the policy, adapters included.
        workload: Of a step.
        phases: Operations.
        memory: Bytes of memory, without activations.
        stored: Bytes on disk.
    """

    parameters: int
    workload: Workload
    phases: list[Phase]
    memory: list[Memory]
    stored: list[Stored]

    @property
    def flops(self) -> float:
        """Operations of the whole run."""
        return sum(phase.flops * phase.times for phase in self.phases)

    @property
    def on_disk(self) -> float:
        """Bytes that the run leaves."""
        return sum(entry.bytes * entry.count for entry in self.stored)

    @property
    def moments(self) -> list[When]:
        """When the run needs different memory: while it learns, retrains a reward model where it does, samples."""
        retrains = any(entry.when == "retraining" for entry in self.memory)
        return ["learning", *(["retraining"] if retrains else []), "sampling"]

    def needed(self, when: When) -> float:
        """Bytes of memory while it does that."""
        return sum(entry.bytes for entry in self.memory if entry.when in ("always", when))


def estimate(
    config: Config,
    shape: Shape,
    workload: Workload,
    *,
    judge: Shape | None = None,
    prompt: int = 512,
    observation: int = 64,
    file_bytes: float | None = None,
) -> Estimate:
    """What a config's run costs.

    Args:
        config: The run's.
        shape: Its model's.
        workload: Of a step: :func:`~grpo_agents.workload.budgeted` or :func:`~grpo_agents.workload.measured`.
        judge: Its reward model's, where it has one: :func:`grpo_agents.learner.shape.load_judge`.
        prompt: Tokens of a prompt, for evaluations.
        observation: Tokens between two turns, for evaluations.
        file_bytes: Measured size of a step's trajectories; estimated where not given.
    """
    method, kind, steps = config.chosen_method, config.source_kind, config.train.steps
    phases = _phases(method, kind, shape, workload, config, steps, judge)
    with_supports = stored_bytes(workload, config.rollout.top_k)
    step_file = with_supports if file_bytes is None else file_bytes
    stored, slots = [], workload.slots if kind in ("policy", "frozen") else 0.0
    if kind in ("policy", "frozen") and (config.train.store or kind == "frozen"):
        stored.append(Stored("trajectories", step_file, steps if kind == "policy" else config.source.batches))
    if (every := config.eval.every) is not None:
        times = steps // every + 1 + (steps % every > 0)
        played = episodes(config, shape, config.eval.tasks, config.eval.rollouts, prompt, observation)
        work, judged, size, cached = played.sampling, played.judging, stored_bytes(played), played.slots
        if workload.measured:  # as long as those of training
            share = played.rollouts / workload.rollouts
            work, judged, cached = workload.sampling.times(share), workload.judging.times(share), workload.slots * share
            size = step_file * share * stored_bytes(workload) / with_supports
        phases.append(Phase("evaluation", work.tokens, forward(shape, work), times))
        if judge is not None:
            phases.append(Phase("evaluation's rewards", judged.tokens, forward(judge, judged), times))
        stored.append(Stored("evaluations", size, times))
        at_once = max(1, config.engine.max_rows // config.eval.rollouts)  # tasks
        slots = max(slots, cached * min(1.0, at_once / config.eval.tasks))
    saves = min(config.train.keep, -(-steps // config.train.save_every))
    stored.append(Stored("checkpoints", checkpoint_bytes(config, shape, judge), saves))
    stored.append(Stored("model", model_bytes(shape), 1))
    if judge is not None and _retrains(config):
        stored.append(Stored("reward model", FLOAT32 * judge.policy.count, 1))
    needed = memory(config, shape, replace(workload, slots=slots), judge)
    return Estimate(shape.policy.count, workload, phases, needed, stored)


def _retrains(config: Config) -> bool:
    return config.reward_model is not None and config.reward_model.retrain_every is not None


def _phases(
    method: Method, kind: str, shape: Shape, workload: Workload, config: Config, steps: int, judge: Shape | None
) -> list[Phase]:
    """Operations of the steps of a method on a kind of source."""
    written, critic = kind in ("demonstrations", "pairs"), method.critic
    scoring, learning, updates = workload.scoring, workload.learning, config.learner.updates
    phases = []
    if kind in ("policy", "frozen"):
        work = workload.sampling.times(workload.resampled)
        times = steps if kind == "policy" else config.source.batches
        phases.append(Phase("sampling", work.tokens, forward(shape, work), times))
        if judge is not None:
            work = workload.judging.times(workload.resampled)
            phases.append(Phase("reward model", work.tokens, forward(judge, work), times))
    if critic is not None or (config.learner.old_logprobs == "recompute" and not written):
        phases.append(Phase("old log-probs", scoring.tokens, forward(shape, scoring), steps))
    if method.needs_reference:
        phases.append(Phase("reference", scoring.tokens, forward(shape, scoring, adapters=False), steps))
    if critic is not None:
        flops = critic_forward(shape, scoring, critic)
        phases.append(Phase("critic", scoring.tokens if critic == "model" else 0.0, flops, steps))
    flops = training(shape, learning, checkpointing=config.learner.gradient_checkpointing)
    phases.append(Phase("training", updates * learning.tokens, updates * flops, steps))
    if critic is not None:
        flops = critic_training(shape, learning, critic, checkpointing=config.learner.gradient_checkpointing)
        tokens = updates * learning.tokens if critic == "model" else 0.0
        phases.append(Phase("critic training", tokens, updates * flops, steps))
    learned = config.reward_model
    if judge is not None and learned is not None and learned.retrain_every is not None and not written:
        pairs = 2 / config.rollout.group_size / (1 - learned.replay)  # of every group at most one, and older ones
        work = workload.judging.times(learned.retrain_every * pairs)
        phases.append(
            Phase("reward model training", work.tokens, training(judge, work), steps // learned.retrain_every)
        )
    return phases


def memory(config: Config, shape: Shape, workload: Workload, judge: Shape | None = None) -> list[Memory]:
    """Bytes of memory, without activations and the logits of a chunk.

    Float32 weights, a gradient of each trained one, AdamW's two moments (in 8 bits, where asked for) or Muon's one; a
    reference as large as the model, but for LoRA, whose reference is the model without its adapters; a critic with its
    own gradients and moments.
    In bfloat16 and float16, the matrices are copied to that while they compute. Muon's buffers in a step are left out.
    A reward model is there all the time; its gradients and AdamW's moments, which begin anew, while it is retrained.
    """
    method, policy = config.chosen_method, shape.policy
    parts = [Memory("weights", FLOAT32 * policy.count, "always")]
    trained, inner, eight_bit = policy.trained, policy.muon, policy.eight_bit
    copied = shape.matrices + shape.adapters + shape.head
    if method.critic is not None:
        decoder = shape.decoder if method.critic == "model" else Weights(0, 0, 0, 0, 0)
        parts.append(Memory("critic", FLOAT32 * (decoder.count + shape.hidden + 1), "always"))
        trained, inner = trained + decoder.trained + shape.hidden + 1, inner + decoder.muon
        eight_bit += decoder.eight_bit + moment_bytes(shape.hidden) + moment_bytes(1)
        copied += shape.matrices + shape.adapters if method.critic == "model" else 0
    if method.needs_reference and not policy.adapters:
        parts.append(Memory("reference", FLOAT32 * policy.count, "always"))
    if judge is not None:
        parts.append(Memory("reward model", FLOAT32 * judge.policy.count, "always"))
        if _retrains(config):
            parts.append(Memory("reward model's gradients, moments", 3 * FLOAT32 * judge.policy.count, "retraining"))
    moments = {
        "adamw": Memory("moments (AdamW)", FLOAT32 * 2 * trained, "always"),
        "adamw8bit": Memory("moments (AdamW, 8 bit)", eight_bit, "always"),
        "muon": Memory("moments (Muon, AdamW)", FLOAT32 * (2 * trained - inner), "always"),
    }
    parts.append(moments[config.learner.optimizer.name])
    parts.append(Memory("gradients", FLOAT32 * trained, "learning"))
    half = config.model.dtype != "float32"
    if half:
        parts.append(Memory(f"{config.model.dtype} copies", 2 * copied, "learning"))
    if config.engine.backend == "vllm" and config.samples:
        size = 2 if half else FLOAT32
        kept = config.train.overlap or not config.engine.vllm.sleep
        parts.append(Memory("vLLM's weights, without its cache", size * policy.count, "always" if kept else "sampling"))
    if config.engine.backend == "transformers" and config.samples:
        parts.append(Memory("key-value cache", kv_bytes(shape, workload.slots), "sampling"))
    return parts


def kv_bytes(shape: Shape, slots: float) -> float:
    """Bytes of a key-value cache: 2 · layers · key-value heads · head_dim a place.

    In float32 also where the model computes in bfloat16, as positions are put into keys in float32.
    """
    return FLOAT32 * 2 * shape.layers * shape.cached * slots


def model_bytes(shape: Shape) -> float:
    """Bytes of the saved model, in float32; with LoRA, of its adapters."""
    return FLOAT32 * (shape.policy.adapters or shape.policy.count)


def checkpoint_bytes(config: Config, shape: Shape, judge: Shape | None = None) -> float:
    """Bytes of a checkpoint: model, moments, the critic, and a reference or a reward model that moves."""
    method = config.chosen_method
    moving = {"reference": method.reference_period is not None, "reward model": _retrains(config)}
    parts = memory(config, shape, _NOTHING, judge)
    beside = [
        part.bytes
        for part in parts
        if part.name.startswith("moments") or part.name == "critic" or moving.get(part.name)
    ]
    return model_bytes(shape) + sum(beside)


SAMPLED_BYTES = 8.0
"""Of a sampled token in a trajectory file: a float32 log-probability that hardly compresses, id, text, compressed."""

SUPPORT_BYTES = 2.0
"""Of a token that could have been sampled in its place: an id, which hardly compresses."""

TOLD_BYTES = 1.0
"""Of a token that an episode was told: id and text; compressed, and mostly shared by a group."""

EPISODE_BYTES = 150.0
"""Of an episode beside its tokens."""

FILE_BYTES = 30_000.0
"""Of a file without any: the schema and what is noted of each column."""


def stored_bytes(workload: Workload, top_k: int = 0) -> float:
    """Bytes of a step's Parquet file, compressed; right within a factor of two, as texts compress differently.

    With top-k those of k ids beside each sampled token, which is the most there are: top-p leaves fewer.
    """
    sampled = SAMPLED_BYTES + SUPPORT_BYTES * top_k
    episode = EPISODE_BYTES + sampled * workload.sampled + TOLD_BYTES * workload.told
    return FILE_BYTES + workload.rollouts * episode


_NOTHING = Workload(Work(0, 0, 0), Work(0, 0, 0), Work(0, 0, 0), Work(0, 0, 0), 0, 0, 0, 0, 0, 0, 1, False)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A method as formulas know it: what runs forward over D tokens, what is trained on them, what is kept.

    Attributes:
        samples: D is sampled.
        old: log π_old is computed.
        reference: log π_ref is computed, and ``kept``: by a model in memory (else it is stored beforehand).
        kept: See ``reference``.
        reward_model: A model as large judges.
        critic: A model as large is trained beside the policy.
        passes: μ updates, or E epochs.
        share: Of D that is trained on.
    """

    samples: bool = False
    old: bool = False
    reference: bool = False
    kept: bool = False
    reward_model: bool = False
    critic: bool = False
    passes: float = 1
    share: float = 1.0

    @property
    def flops(self) -> float:
        """Operations in N·D: 2 for each pass forward, 6 for each update of each trained model."""
        read = self.samples + self.old + self.reference + self.reward_model + self.critic
        return 2 * read + 6 * self.passes * self.share * (1 + self.critic)

    @property
    def bytes(self) -> int:
        """Bytes of state in N, in mixed precision with Adam: 16 a trained model, 2 a frozen one."""
        return 16 * (1 + self.critic) + 2 * ((self.reference and self.kept) + self.reward_model)


TEXTBOOK = {
    "SFT": Recipe(),
    "RFT": Recipe(samples=True),
    "DPO": Recipe(reference=True),
    "PPO": Recipe(samples=True, old=True, reference=True, kept=True, reward_model=True, critic=True),
    "GRPO": Recipe(samples=True, old=True, reference=True, kept=True, reward_model=True),
    "GRPO, β = 0, rules, on-policy": Recipe(samples=True),
}
"""The usual rows, with μ = E = 1 and all of D kept."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Methods of one cost.

    Attributes:
        methods: Their names.
        flops: Operations of one pass over the workload.
        per_token: The same in N·D.
        bytes: Of memory while it learns.
        per_weight: The same in N.
        textbook: What formulas say, in N·D and in N.
    """

    methods: list[str]
    flops: float
    per_token: float
    bytes: float
    per_weight: float
    textbook: tuple[float, int]


def compare(config: Config, shape: Shape, workload: Workload, judge: Shape | None = None) -> list[Compared]:
    """Every method with its own settings, and two with a KL term, on the same N and D; those of one cost together.

    Each samples all of D if it samples, keeps it all, and goes through it once, in the same groups. A reward
    model judges what is sampled, and is not retrained.
    """
    frozen = None if config.reward_model is None else config.reward_model.model_copy(update={"retrain_every": None})
    found: dict[tuple[float, float], Compared] = {}
    settings: list[dict[str, Any]] = [{"name": name} for name in sorted(available())]
    settings += [{"name": "grpo", "kl_weight": 0.04}, {"name": "ppo", "kl_weight": 0.04, "value_model": "separate"}]
    for chosen in settings:
        title = ", ".join(str(value) if key == "name" else f"{key} = {value}" for key, value in chosen.items())
        needed_besides = {"max_length": config.rollout.max_tokens} if chosen["name"] == "dr_grpo" else {}
        changed = {"method": {**chosen, **needed_besides}, "source": type(config.source)(), "reward_model": frozen}
        alone = config.model_copy(update=changed)
        method, judges = alone.chosen_method, judge if alone.source_kind in ("policy", "frozen") else None
        phases = _phases(method, alone.source_kind, shape, replace(workload, resampled=1.0), alone, 1, judges)
        flops = sum(phase.flops for phase in phases)
        needed = sum(part.bytes for part in memory(alone, shape, workload, judges) if part.when != "sampling")
        row = _ROWS.get(method.name, "GRPO" if method.needs_reference else "GRPO, β = 0, rules, on-policy")
        recipe = replace(TEXTBOOK[row], passes=config.learner.updates)
        per_token = flops / (shape.policy.count * workload.tokens)
        same = found.setdefault(
            (flops, needed),
            Compared([], flops, per_token, needed, needed / shape.policy.count, (recipe.flops, recipe.bytes)),
        )
        same.methods.append(title)
    return sorted(found.values(), key=lambda row: (row.flops, row.bytes))


_ROWS = {"sft": "SFT", "rft": "RFT", "online_rft": "RFT", "dpo": "DPO", "ppo": "PPO"}
"""Which row of :data:`TEXTBOOK` a method's is; GRPO's where it is not listed."""
