"""Which settings are there, of what type and in what range, and what do they mean?

The values are in ``conf/``; ``--help`` and the error texts are made from here.
"""

import math
from collections.abc import Iterator
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from omegaconf import MISSING

from refine.config import choices as answers

BOUNDS = {
    "above": ("above", lambda value, bound: value > bound),
    "at_least": ("at least", lambda value, bound: value >= bound),
    "below": ("below", lambda value, bound: value < bound),
    "at_most": ("at most", lambda value, bound: value <= bound),
}


def setting(
    meaning: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    choices: dict[str, str] | None = None,
    importable: bool = False,
    pattern: str | None = None,
    default: Any = MISSING,
) -> Any:
    """A field with its one-line meaning and its range.

    ``importable``: beside the ``choices``, a dotted import path is an answer too.
    """
    bounds = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return field(
        default=default,
        metadata={
            "meaning": meaning,
            "bounds": {name: value for name, value in bounds.items() if math.isfinite(value)},
            "choices": choices,
            "importable": importable,
            "pattern": pattern,
        },
    )


def node(meaning: str) -> Any:
    """A free node: ``_target_`` names something importable, the rest are its arguments."""
    return field(default_factory=dict, metadata={"meaning": meaning})


def allowed(entry: Any) -> str:
    """What a setting may hold, in words; empty where its type says it all."""
    choices, bounds = entry.metadata.get("choices"), entry.metadata.get("bounds", {})
    if choices:
        more = ", or an import path" if entry.metadata["importable"] else ""
        return ", ".join(choices) + more
    return " and ".join(f"{BOUNDS[name][0]} {value:g}" for name, value in bounds.items())


@dataclass
class DatasetConfig:
    """What the network learns."""

    _target_: str = setting("a function (root, image_size) -> RawData")
    root: str = setting("directory of the data; the default is $REFINE_DATA, else data")
    image_size: int | None = setting("resize images to this many pixels a side", at_least=1)
    subset_size: int = setting("training images to use, balanced by class; 0: all", at_least=0)
    validation_size: int = setting("of these, held out for validation", at_least=0)
    test_size: int = setting("test images to use, balanced by class; 0: all", at_least=0, default=0)
    augment: str = setting(
        "done to a training batch", choices=answers.AUGMENTATIONS, importable=True
    )
    split: str = setting("how it becomes a stream of tasks", choices=answers.SPLITS, default="none")
    tasks: int | None = setting(
        "how many; null: two classes each, or 5 of permuted", at_least=1, default=None
    )


@dataclass
class PrunerConfig:
    """What a refinement cycle cuts."""

    importance: str = setting(
        "the score of a weight; lowest go first", choices=answers.IMPORTANCES, importable=True
    )
    allocation: str = setting(
        "how much each tensor loses", choices=answers.ALLOCATIONS, importable=True
    )
    ratio: float = setting("share of the surviving weights that one cycle cuts", above=0, below=1)
    downscale_factor: float = setting(
        "the prunable weights are multiplied by this before the cut", above=0, at_most=1
    )
    granularity: str = setting(
        "what goes together", choices=answers.GRANULARITIES, default="weight"
    )
    n: int = setting("of n_m: weights that stay", at_least=1, default=2)
    m: int = setting("of n_m: of so many", at_least=2, default=4)
    layers: Any = field(  # not a dict: to one, overrides could add no key
        default=None,
        metadata={
            "meaning": "ratios of their own for layers, by glob, such as {fc*: 0.3, conv1: 0}; "
            "the first that fits counts"
        },
    )
    min_layer_density: float = setting(
        "share of its weights (or channels) that every tensor keeps",
        at_least=0, below=1, default=0.0,
    )  # fmt: skip
    scoring_batches: int = setting(
        "batches of training images for scores that need data", at_least=1, default=8
    )
    criterion: str = setting(
        "the score of a channel, with which whole channels are taken out of the network",
        choices=answers.CRITERIA, importable=True, default="none",
    )  # fmt: skip
    target_speedup: float | None = setting(
        "of channels: times fewer multiply-accumulates than at first, which the last cycle reaches",
        above=1, default=None,
    )  # fmt: skip
    target_macs: int | None = setting(
        "the same as multiply-accumulates for one image", at_least=1, default=None
    )
    target_parameters: int | None = setting(
        "of channels: parameters that the last cycle leaves", at_least=1, default=None
    )
    round_to: int = setting(
        "of channels: widths that change become multiples of it", at_least=1, default=1
    )
    min_channels: int = setting("of channels: that every layer keeps", at_least=1, default=1)
    steps: int = setting(
        "of channels: parts in which all of them would go; what is left is scored anew after each",
        at_least=1, default=20,
    )  # fmt: skip
    initial_sparsity: float = setting(
        "share of all parameters that is cut by lot before the first step",
        at_least=0, below=1, default=0.0,
    )  # fmt: skip
    initial_allocation: str = setting(
        "how that is divided among the tensors",
        choices=answers.ALLOCATIONS, importable=True, default="erk",
    )  # fmt: skip


@dataclass
class ControllerConfig:
    """The search of regrowth.allocation=controller."""

    episodes: int = setting("allocations tried at most", at_least=1, default=50)
    seconds: float = setting("to try them in, at most", above=0, default=600.0)
    steps: int = setting("training steps before each is judged", at_least=0, default=20)


@dataclass
class RegrowthConfig:
    """What a cycle lets grow again."""

    score: str = setting(
        "which cut weights; highest first", choices=answers.REGROWTHS, default="none"
    )
    allocation: str = setting(
        "how much each tensor gets back", choices=answers.REGROWTH_ALLOCATIONS, default="cut"
    )
    budget: float | None = setting(
        "share of all prunable weights a cycle; null: as many as it cut, or down to "
        "regrowth.target_sparsity",
        above=0, at_most=1, default=None,
    )  # fmt: skip
    target_sparsity: float | None = setting(
        "share of all parameters that is cut after it", at_least=0, below=1, default=None
    )
    initial: str = setting(
        "value of a weight that is back", choices=answers.INITIALS, default="zero"
    )
    only_epochs: int = setting(
        "epochs for which nothing but the weights that are back is trained", at_least=0, default=0
    )
    source: str | None = setting(
        "denser network of saliency and reference: a run's directory, a .safetensors file, or "
        "cache: what the run itself has cut; null: the run's own before its first cut",
        default=None,
    )
    controller: ControllerConfig = field(default_factory=ControllerConfig)


@dataclass
class VaeConfig:
    """The autoencoder of replay.storage=generative."""

    hidden: int = setting("units of its hidden layers", at_least=1, default=256)
    latent: int = setting("units of its code", at_least=1, default=32)
    training_steps: int = setting("steps that it is trained for a cycle", at_least=1, default=300)
    learning_rate: float = setting("of its Adam", above=0, default=1e-3)


@dataclass
class ReplayConfig:
    """What a cycle trains on after its cut."""

    selection: str = setting(
        "the rank of an image; highest first", choices=answers.SELECTIONS, importable=True
    )
    buffer_size: int = setting("images in memory", at_least=1)
    steps: int = setting("training steps on them; 0: no replay", at_least=0)
    batch_size: int = setting("images a step", at_least=1)
    storage: str = setting("what is kept", choices=answers.STORAGES, default="highest")
    sampling: str = setting("what a step draws", choices=answers.SAMPLINGS, default="shuffled")
    alpha: float = setting("of proportional: power of the loss", at_least=0, default=0.6)
    beta: float = setting(
        "of proportional: how far weights make up for it", at_least=0, at_most=1, default=0.4
    )
    vae: VaeConfig = field(default_factory=VaeConfig)


@dataclass
class DistillationConfig:
    """From whom a refined network learns beside its labels."""

    teacher: str = setting("who", choices=answers.TEACHERS, default="none")
    match: str = setting("what of it", choices=answers.MATCHED, default="logits")
    during: str = setting("when", choices=answers.DURATIONS, default="replay")
    temperature: float = setting("that logits are divided by", above=0, default=2.0)
    weight: float = setting(
        "share of the loss; the labels have the rest", at_least=0, at_most=1, default=0.5
    )
    decay: float = setting("of the running average, a step", at_least=0, below=1, default=0.99)
    source: str | None = setting("of dense: a run's directory or a .safetensors file", default=None)


@dataclass
class RegularizerConfig:
    """What training steps add to the gradients, so that what is cut later is small by then."""

    kind: str = setting("what", choices=answers.REGULARIZERS, default="none")
    strength: float | None = setting(
        "of it; null: as published, bn_scale and l1 1e-5, group_norm 5e-4, growing_reg 1e-4",
        at_least=0, default=None,
    )  # fmt: skip
    growth: float = setting("of growing_reg: an epoch, at most", at_least=0, default=1e-5)
    warmup: int = setting("epochs in which the strength rises from 0", at_least=0, default=0)
    start: int = setting("epoch after which it begins", at_least=0, default=0)
    stop: int | None = setting("its last epoch; null: the run's", at_least=1, default=None)


@dataclass
class RecoveryConfig:
    """What the learning rate and the weights do after a cut, until the next one."""

    curve: str = setting("the rate", choices=answers.CURVES, default="none", importable=True)
    rewind_weights: bool = setting(
        "what survives has its values of an earlier epoch again (Frankle et al. 2019)",
        default=False,
    )
    rewind_to: int | None = setting(
        "that epoch; null: as long before the first cut as the first recovery takes",
        at_least=0, default=None,
    )  # fmt: skip
    max_lr: float | None = setting(
        "highest rate of slr, clr and one_cycle; null: trainer.optimizer.lr", above=0, default=None
    )
    min_lr: float | None = setting(
        "rate of fine_tune, and where slr begins; null: the original schedule's last, at least a "
        "hundredth of max_lr",
        above=0, default=None,
    )  # fmt: skip
    cycle_momentum: bool = setting(
        "momentum falls from 0.95 to 0.85 as the rate rises, and back: clr, one_cycle",
        default=False,
    )
    epochs: int | None = setting(
        "that it takes, after which the rate stays; null: until the next cycle or the end",
        at_least=1, default=None,
    )  # fmt: skip
    original_epochs: int | None = setting(
        "length of the original schedule, which trainer.lr_scheduler describes; null: until the "
        "first cycle",
        at_least=1, default=None,
    )  # fmt: skip


@dataclass
class CacheConfig:
    """Where what is cut is kept."""

    kind: str = setting("where", choices=answers.CACHES, default="none")


@dataclass
class ScheduleConfig:
    """When a cycle is due."""

    _target_: str = setting("a class like those of refine/schedule.py")
    interval: int = setting("epochs (or steps) from one cycle to the next", at_least=1)
    start: int | None = setting(
        "after which the first cycle comes, 0: before training; null: interval, one_shot: half-way",
        at_least=0,
    )
    stop: int | None = setting(
        "last that a cycle may follow; null: the last but one of the run", at_least=0
    )
    cycles_at_once: int = setting("as how many cycles one_shot cuts", at_least=1)
    target_sparsity: float | None = setting(
        "share of all parameters cut in the end: geometric, cubic, cyclic; one_shot if set",
        above=0,
        below=1,
    )
    by: str = setting(
        "what interval, start, stop and at count", choices=answers.UNITS, default="epoch"
    )
    of: str = setting(
        "what pruner.ratio is a share of", choices=answers.SHARES, default="survivors"
    )
    initial_sparsity: float = setting(
        "where cubic begins, and what cyclic grows back to", at_least=0, below=1, default=0.0
    )
    at: list[int] = field(
        default_factory=list, metadata={"meaning": "epochs (or steps) of a list's cycles"}
    )
    sparsities: list[float] = field(
        default_factory=list,
        metadata={"meaning": "shares of all parameters cut after each of them"},
    )
    period: int = setting(
        "cycles of cyclic from one growing back to the next", at_least=2, default=5
    )
    tolerance: float = setting(
        "validation accuracy that adaptive gives up at most", at_least=0, below=1, default=0.01
    )


@dataclass
class TrainerConfig:
    """The training recipe."""

    epochs: int = setting("passes over the training images", at_least=1)
    batch_size: int = setting("images a training step", at_least=1)
    precision: str = setting("arithmetic of forward and backward pass", choices=answers.PRECISIONS)
    label_smoothing: float = setting("of the cross-entropy", at_least=0, below=1)
    deterministic: bool = setting(
        "the same bits every time on a GPU too, slower (a CPU's are, for as many threads)",
        default=False,
    )
    optimizer: dict[str, Any] = node(
        "any torch optimizer without a closure: _target_ and its arguments"
    )
    lr_scheduler: dict[str, Any] = node(
        "any torch scheduler of a fixed curve; per: stepped each batch or epoch; the value `total` "
        "stands for the number of its steps in the run"
    )


@dataclass
class CheckpointConfig:
    """What a killed run goes on from."""

    every: int = setting(
        "epochs from one checkpoint to the next, before and after each cycle too; 0: none",
        at_least=0,
        default=1,
    )
    keep: bool = setting(
        "leave the last one when the run has finished, to go on to more epochs", default=True
    )


@dataclass
class SweepConfig:
    """Of refine-run -m."""

    dry_run: bool = setting("list the jobs and what would be done with each", default=False)


@dataclass
class TrackerConfig:
    """Who else is told what was measured. It has defaults as older runs' config.yaml lack it."""

    _target_: str = setting(
        "a class like those of refine/tracking/", default="refine.tracking.csv.Csv"
    )
    project: str = setting(
        "name of the experiment in MLflow, of the project in wandb", default="runtime-refinement"
    )
    uri: str | None = setting(
        "MLflow's store or server; null: $MLFLOW_TRACKING_URI, else "
        "sqlite:///results/mlflow/mlflow.db",
        default=None,
    )
    mode: str = setting("where wandb's figures go", choices=answers.MODES, default="offline")


@dataclass
class RunConfig:
    """One run."""

    seed: int = setting(
        "of initial weights, order, subset, augmentation, replay", at_least=0, at_most=2**63 - 1
    )
    device: str = setting(
        "auto, cpu, cuda, cuda:1, mps; auto: the first GPU, else cpu",
        pattern=r"auto|cpu|mps|cuda(:\d+)?",
    )
    output_dir: str | None = setting(
        "the run's own directory; null: results/runs/<date>/<time>. Of a sweep: the directory of "
        "all its runs; null: results/sweeps/<what is varied>-<hash>"
    )
    save_model: bool = setting("leave model.safetensors in the run's directory")
    resume: str | None = setting(
        "directory of a run to go on with, also with a larger trainer.epochs", default=None
    )
    start_from: str | None = setting(
        "network to begin with: a run's directory or a .safetensors file; what is 0 there is cut",
        default=None,
    )
    model: dict[str, Any] = node("any callable: _target_ and its arguments")
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    regrowth: RegrowthConfig = field(default_factory=RegrowthConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)


# Nodes of fixed keys; what else stands in the others is an argument of their _target_.
CLOSED = {
    RunConfig: "", PrunerConfig: "pruner", RegrowthConfig: "regrowth", ReplayConfig: "replay",
    VaeConfig: "replay.vae", ControllerConfig: "regrowth.controller",
    DistillationConfig: "distillation", RecoveryConfig: "recovery", CacheConfig: "cache",
    RegularizerConfig: "regularizer", TrainerConfig: "trainer",
}  # fmt: skip
GROUPS = (
    "model", "dataset", "pruner", "regularizer", "regrowth", "replay", "distillation", "recovery",
    "cache", "schedule", "trainer", "tracker", "experiment", "control",
)  # fmt: skip


def settings(schema: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting's dotted name and its dataclass field, groups last."""
    below = []
    for entry in fields(schema):
        if entry.default is REQUIRED and is_dataclass(entry.type):
            below.append(entry)
        else:
            yield prefix + entry.name, entry
    for entry in below:
        yield from settings(entry.type, f"{prefix}{entry.name}.")
