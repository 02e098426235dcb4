"""Which settings are there, of what type, range and default, and what do they mean?

The files in ``conf/`` hold only what differs from these defaults; ``--help`` and the error texts
are made from here. The settings of schedules stand in refine/schedule/.
"""

from collections.abc import Iterator
from dataclasses import MISSING as REQUIRED
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from refine.config import choices
from refine.setting import setting


def node(meaning: str) -> Any:
    """A free node: ``_target_`` names something importable, the rest are its arguments."""
    return field(default_factory=dict, metadata={"meaning": meaning})


@dataclass
class DatasetConfig:
    """What the network learns."""

    _target_: str = setting("a function (root, image_size) -> RawData", default=MISSING)
    root: str = setting(
        "directory of the data; the default is $REFINE_DATA, else data",
        text=True,
        default="${oc.env:REFINE_DATA,data}",
    )
    image_size: int | None = setting(
        "resize images to this many pixels a side", at_least=1, default=32
    )
    subset_size: int = setting(
        "training images to use, balanced by class; 0: all", at_least=0, default=0
    )
    validation_size: int = setting(
        "how many of these are held out for validation", at_least=0, default=0
    )
    test_size: int = setting("test images to use, balanced by class; 0: all", at_least=0, default=0)
    augment: str = setting(
        "what is done to a training batch",
        choices=choices.AUGMENTATIONS,
        importable=True,
        default="none",
    )
    split: str = setting(
        "how the data become a stream of tasks", choices=choices.SPLITS, default="none"
    )
    tasks: int | None = setting(
        "number of tasks; null: two classes each, or 5 with permuted", at_least=1, default=None
    )


@dataclass
class PrunerConfig:
    """What a refinement cycle cuts."""

    importance: str = setting(
        "the score of a weight; the lowest are cut",
        choices=choices.IMPORTANCES, importable=True, default="magnitude",
    )  # fmt: skip
    allocation: str = setting(
        "how much each tensor loses",
        choices=choices.ALLOCATIONS, importable=True, default="layerwise",
    )  # fmt: skip
    ratio: float = setting(
        "share of the surviving weights that one cycle cuts", above=0, below=1, default=0.15
    )
    downscale_factor: float = setting(
        "the prunable weights are multiplied by this before the cut",
        above=0, at_most=1, default=0.98,
    )  # fmt: skip
    granularity: str = setting(
        "what is cut together", choices=choices.GRANULARITIES, default="weight"
    )
    n: int = setting("for n_m: weights that stay", at_least=1, default=2)
    m: int = setting("for n_m: consecutive weights of which n stay", at_least=2, default=4)
    layers: Any = field(  # not a dict: to one, overrides could add no key
        default=None,
        metadata={
            "meaning": "ratios for single layers, by glob, such as {fc*: 0.3, conv1: 0}; the "
            "first glob that matches counts"
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
        choices=choices.CRITERIA, importable=True, default="none",
    )  # fmt: skip
    target_speedup: float | None = setting(
        "for channels: how many times fewer multiply-accumulates (MACs) the last cycle leaves",
        above=1, default=None,
    )  # fmt: skip
    target_macs: int | None = setting(
        "for channels: MACs of one image that the last cycle leaves", at_least=1, default=None
    )
    target_parameters: int | None = setting(
        "for channels: parameters that the last cycle leaves", at_least=1, default=None
    )
    round_to: int = setting(
        "for channels: widths that change become multiples of this", at_least=1, default=1
    )
    min_channels: int = setting("for channels: how many every layer keeps", at_least=1, default=1)
    steps: int = setting(
        "for channels: number of steps to cut all of them; scores are computed again after each",
        at_least=1, default=20,
    )  # fmt: skip
    initial_sparsity: float = setting(
        "share of all parameters that is cut at random before the first step",
        at_least=0, below=1, default=0.0,
    )  # fmt: skip
    initial_allocation: str = setting(
        "how pruner.initial_sparsity is divided among the tensors",
        choices=choices.ALLOCATIONS, importable=True, default="erk",
    )  # fmt: skip


@dataclass
class ControllerConfig:
    """The search of regrowth.allocation=controller."""

    episodes: int = setting("how many allocations are tried at most", at_least=1, default=50)
    seconds: float = setting("how long it may take", above=0, default=600.0)
    steps: int = setting("training steps before an allocation is judged", at_least=0, default=20)


@dataclass
class RegrowthConfig:
    """What grows back in a cycle."""

    score: str = setting(
        "which cut weights grow back, highest score first",
        choices=choices.REGROWTHS,
        default="none",
    )
    allocation: str = setting(
        "how much each tensor gets back", choices=choices.REGROWTH_ALLOCATIONS, default="cut"
    )
    budget: float | None = setting(
        "share of all prunable weights that each cycle grows back; null: as many as it cut, or "
        "down to regrowth.target_sparsity",
        above=0, at_most=1, default=None,
    )  # fmt: skip
    target_sparsity: float | None = setting(
        "share of all parameters that is still cut afterwards", at_least=0, below=1, default=None
    )
    initial: str = setting(
        "value of a weight that has grown back", choices=choices.INITIALS, default="zero"
    )
    only_epochs: int = setting(
        "epochs in which only regrown weights are trained", at_least=0, default=0
    )
    source: str | None = setting(
        "the denser network for saliency and reference: a run's directory, a .safetensors file, "
        "or cache, which is what this run has cut; null: this run before its first cut",
        text=True,
        default=None,
    )
    controller: ControllerConfig = field(default_factory=ControllerConfig)


@dataclass
class VaeConfig:
    """The autoencoder of replay.storage=generative."""

    hidden: int = setting("units of the hidden layers", at_least=1, default=256)
    latent: int = setting("units of the latent code", at_least=1, default=32)
    training_steps: int = setting(
        "training steps of the autoencoder in each cycle", at_least=1, default=300
    )
    learning_rate: float = setting("learning rate of the autoencoder's Adam", above=0, default=1e-3)


@dataclass
class ReplayConfig:
    """What a cycle trains on after its cut."""

    selection: str = setting(
        "the rank of an image; the highest are kept",
        choices=choices.SELECTIONS, importable=True, default="uniform",
    )  # fmt: skip
    buffer_size: int = setting("images in the memory", at_least=1, default=1000)
    steps: int = setting("training steps on the memory; 0: no replay", at_least=0, default=30)
    batch_size: int = setting("images in each step", at_least=1, default=128)
    storage: str = setting("what the memory keeps", choices=choices.STORAGES, default="highest")
    sampling: str = setting(
        "what a step draws from the memory", choices=choices.SAMPLINGS, default="shuffled"
    )
    alpha: float = setting("for proportional: the power of the loss", at_least=0, default=0.6)
    beta: float = setting(
        "for proportional: how far weights correct the bias; 1: fully",
        at_least=0,
        at_most=1,
        default=0.4,
    )
    vae: VaeConfig = field(default_factory=VaeConfig)


@dataclass
class DistillationConfig:
    """Which teacher a refined network has besides its labels."""

    teacher: str = setting("who teaches", choices=choices.TEACHERS, default="none")
    match: str = setting("what is matched", choices=choices.MATCHED, default="logits")
    during: str = setting("when the teacher is used", choices=choices.DURATIONS, default="replay")
    temperature: float = setting("what logits are divided by", above=0, default=2.0)
    weight: float = setting("the teacher's share of the loss", at_least=0, at_most=1, default=0.5)
    decay: float = setting(
        "decay of the running average in each step", at_least=0, below=1, default=0.99
    )
    source: str | None = setting(
        "for dense: a run's directory, whose configuration says which network it is, or a "
        ".safetensors file",
        text=True,
        default=None,
    )


@dataclass
class RegularizerConfig:
    """What training steps add to the gradients, so that what is cut later is already small."""

    kind: str = setting("the penalty", choices=choices.REGULARIZERS, default="none")
    strength: float | None = setting(
        "of the penalty; null: as published, 1e-5 for bn_scale and l1, 5e-4 for group_norm, 1e-4 "
        "for growing_reg",
        at_least=0, at_most=1e6, default=None,
    )  # fmt: skip
    growth: float = setting(
        "for growing_reg: greatest increase of the strength in an epoch",
        at_least=0, at_most=1e6, default=1e-5,
    )  # fmt: skip
    warmup: int = setting("epochs in which the strength rises from 0", at_least=0, default=0)
    start: int = setting("epoch after which it begins", at_least=0, default=0)
    stop: int | None = setting(
        "last epoch in which it acts; null: the run's last", at_least=1, default=None
    )


@dataclass
class RecoveryConfig:
    """What the learning rate and the weights do after a cut, until the next one."""

    curve: str = setting(
        "what the rate does", choices=choices.CURVES, default="none", importable=True
    )
    rewind_weights: bool = setting(
        "surviving weights get their values of an earlier epoch back (Frankle et al. 2019)",
        default=False,
    )
    rewind_to: int | None = setting(
        "the earlier epoch; null: as long before the first cut as the first recovery takes",
        at_least=0, default=None,
    )  # fmt: skip
    max_lr: float | None = setting(
        "highest rate of slr, clr and one_cycle; null: trainer.optimizer.lr", above=0, default=None
    )
    min_lr: float | None = setting(
        "rate of fine_tune and first rate of slr; null: the original schedule's last, but at least "
        "a hundredth of max_lr",
        above=0, default=None,
    )  # fmt: skip
    cycle_momentum: bool = setting(
        "for clr and one_cycle: momentum falls from 0.95 to 0.85 as the rate rises, and back",
        default=False,
    )
    epochs: int | None = setting(
        "length of a recovery, after which the rate stays; null: until the next cycle or the end",
        at_least=1, default=None,
    )  # fmt: skip
    original_epochs: int | None = setting(
        "length of the original schedule, which trainer.lr_scheduler describes; null: until the "
        "first cycle",
        at_least=1, at_most=1_000_000, default=None,
    )  # fmt: skip


@dataclass
class CacheConfig:
    """Where what is cut is kept."""

    kind: str = setting("where it is kept", choices=choices.CACHES, default="none")


@dataclass
class TrainerConfig:
    """The training recipe."""

    epochs: int = setting(
        "passes over the training images", at_least=1, at_most=1_000_000, default=20
    )
    batch_size: int = setting("images in each training step", at_least=1, default=128)
    precision: str = setting(
        "arithmetic of forward and backward pass", choices=choices.PRECISIONS, default="auto"
    )
    label_smoothing: float = setting("of the cross-entropy", at_least=0, below=1, default=0.0)
    deterministic: bool = setting(
        "the same bits every time on a GPU too, but slower; a CPU does so with equal threads",
        default=False,
    )
    optimizer: dict[str, Any] = node(
        "any torch optimizer that needs no closure: _target_ and its arguments"
    )
    lr_scheduler: dict[str, Any] = node(
        "any torch scheduler with a fixed curve: _target_ and its arguments; per: stepped after "
        "each batch or epoch; the value `total` stands for its number of steps in the run"
    )


@dataclass
class CheckpointConfig:
    """What a stopped run is resumed from."""

    every: int = setting(
        "epochs from one checkpoint to the next, before and after each cycle too; 0: none",
        at_least=0,
        default=1,
    )
    keep: bool = setting(
        "keep the last one when the run has finished, so that it can be resumed with more epochs",
        default=False,
    )


@dataclass
class SweepConfig:
    """Settings of refine-run -m."""

    dry_run: bool = setting("list the jobs and what would be done with each", default=False)


@dataclass
class TrackerConfig:
    """Where else measurements are sent."""

    _target_: str = setting(
        "a class like those of refine/tracking/", default="refine.tracking.csv.Csv"
    )
    project: str = setting(
        "name of the experiment in MLflow or of the project in wandb",
        text=True,
        default="runtime-refinement",
    )
    uri: str | None = setting(
        "MLflow's store or server; null: $MLFLOW_TRACKING_URI, else "
        "sqlite:///results/mlflow/mlflow.db",
        text=True,
        default=None,
    )
    mode: str = setting("where wandb's figures go", choices=choices.MODES, default="offline")


@dataclass
class RunConfig:
    """One run."""

    seed: int = setting(
        "seed of initial weights, order, subset, augmentation and replay",
        at_least=0, at_most=2**63 - 1, default=42,
    )  # fmt: skip
    device: str = setting(
        "auto, cpu, cuda, cuda:1 or mps; auto: the first GPU, else the CPU",
        pattern=r"auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,5}))?",
        default="auto",
    )
    output_dir: str | None = setting(
        "directory of the run; null: results/runs/<date>/<time>. In a sweep: the directory of all "
        "its runs; null: results/sweeps/<what is varied>-<hash>",
        text=True,
        default=None,
    )
    save_model: bool = setting("leave model.safetensors in the run's directory", default=True)
    figure_formats: str = setting(
        "files that the figure is written to", choices=choices.FIGURES, default="png"
    )
    resume: str | None = setting(
        "directory of a run to resume; one that has finished and was run with checkpoint.keep=true "
        "takes a larger trainer.epochs",
        text=True,
        default=None,
    )
    start_from: str | None = setting(
        "network to start with: a run's directory or a .safetensors file; its weights of 0 are cut "
        "and images are normalised as in its training",
        text=True,
        default=None,
    )
    start_from_head: str = setting(
        "the last layer of that network", choices=choices.HEADS, default="keep"
    )
    model: dict[str, Any] = node("any callable that makes a network: _target_ and its arguments")
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    regrowth: RegrowthConfig = field(default_factory=RegrowthConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    schedule: dict[str, Any] = node(
        "when a cycle is due: _target_, a class like those of refine/schedule/, and its settings"
    )
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)


# Nodes with fixed keys; in the others, any further key is an argument of their _target_.
CLOSED = {
    RunConfig: "", PrunerConfig: "pruner", RegrowthConfig: "regrowth", ReplayConfig: "replay",
    VaeConfig: "replay.vae", ControllerConfig: "regrowth.controller",
    DistillationConfig: "distillation", RecoveryConfig: "recovery", CacheConfig: "cache",
    RegularizerConfig: "regularizer", TrainerConfig: "trainer", CheckpointConfig: "checkpoint",
    SweepConfig: "sweep",
}  # fmt: skip
GROUPS = (
    "model", "dataset", "pruner", "regularizer", "regrowth", "replay", "distillation", "recovery",
    "cache", "schedule", "trainer", "tracker", "experiment", "control",
)  # fmt: skip


def settings(schema: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Every setting's dotted name and its dataclass field, groups last."""
    below: list[tuple[str, type]] = []
    for entry in fields(schema):
        if entry.default is REQUIRED and isinstance(entry.type, type) and is_dataclass(entry.type):
            below.append((entry.name, entry.type))
        else:
            yield prefix + entry.name, entry
    for name, group in below:
        yield from settings(group, f"{prefix}{name}.")


def typed(config: DictConfig) -> RunConfig:
    """The resolved values of ``config`` with their types. Free nodes, such as ``model``, are plain
    dictionaries; further arguments for the ``_target_`` of another node become attributes."""
    schema = OmegaConf.structured(RunConfig)
    OmegaConf.set_struct(schema, False)
    return cast(RunConfig, OmegaConf.to_object(OmegaConf.merge(schema, config)))
