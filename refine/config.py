"""Which settings are there, of what type and in what range, and what do they mean?

The values are in ``conf/``; ``--help`` and the error texts are made from here. This module
imports neither torch nor Hydra.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from refine.combinations import check
from refine.errors import SettingError, one_of
from refine.names import APART, flat, within

IMPORTANCES = {
    "magnitude": "|w| (Han et al. 2015)",
    "random": "a number by lot: the control",
    "none": "no score, so nothing is cut",
    "taylor": "|w g|, mean over batches (Molchanov et al. 2017)",
    "taylor_squared": "(w g)^2, mean over batches (Molchanov et al. 2019)",
    "fisher": "w^2 times the mean squared gradient of single images (Theis et al. 2018)",
    "snip": "|w g| of all batches together, as a share of the network's (SNIP, Lee et al. 2019)",
    "movement": "-w g summed over the last epoch's steps (Sanh et al. 2020)",
    "activation": "|w| times the norm of its input (Wanda, Sun et al. 2023)",
    "similarity": "distance of a filter to its layer's others (FPGM, He et al. 2019); filters only",
}
ALLOCATIONS = {
    "layerwise": "every tensor loses the same share of its own survivors (the paper)",
    "global": "one ranking over all tensors (Han et al. 2015)",
    "uniform_plus": "the same density everywhere, but the first convolution stays dense and the "
    "last layer keeps 20 % (Gale et al. 2019)",
    "er": "survivors in proportion to inputs plus outputs (SET, Mocanu et al. 2018)",
    "erk": "the same with the sides of the kernel (RigL, Evci et al. 2020)",
    "lamp": "one ranking by w^2 over the sum of those not smaller in its tensor (Lee et al. 2021)",
}
GRANULARITIES = {
    "weight": "every weight for itself (the paper)",
    "filter": "output channels, with their bias and batch norm, but the last layer's "
    "(Li et al. 2017)",
    "kernel": "the kernel of one input and one output channel (Mao et al. 2017)",
    "n_m": "pruner.n of every pruner.m weights along the inputs stay (Zhou et al. 2021)",
}
SELECTIONS = {
    "high_loss": "the training images of highest loss (the paper)",
    "uniform": "images chosen by lot",
}
AUGMENTATIONS = {
    "none": "the images as they are",
    "flip": "mirrored left to right, every second one",
    "crop": "shifted by up to an eighth of their size, black at the edge",
    "crop_flip": "both",
    "shift_flip": "both, with the picture mirrored at its edge instead of black",
}
PRECISIONS = {
    "auto": "bf16 where the processor or GPU has it, fp16 on older GPUs, else fp32",
    "fp32": "single precision throughout",
    "bf16": "bfloat16 autocast",
    "fp16": "half precision autocast with a gradient scaler (CUDA only)",
}
UNITS = {"epoch": "cycles are due after epochs", "step": "after training steps"}
SHARES = {"survivors": "of the weights that live", "all": "of all that could ever be cut"}
REGROWTHS = {
    "none": "what is cut stays cut",
    "random": "by lot (SET, Mocanu et al. 2018)",
    "gradient": "greatest |gradient| where weights are cut (RigL, Evci et al. 2020)",
    "saliency": "greatest (w g)^2 of the denser network it once was (arXiv:2511.11675)",
    "reference": "where a less sparse network still has weights (arXiv:2511.11675)",
}
REGROWTH_ALLOCATIONS = {
    "cut": "each tensor gets back what it lost in this cycle (SET, RigL)",
    "uniform": "in proportion to what is cut of each tensor",
    "global": "one ranking over all tensors",
    "greedy": "the layer whose feature maps have changed most first, by SSIM (arXiv:2511.11675)",
    "proportional": "in proportion to how much they have changed (arXiv:2511.11675)",
    "controller": "an LSTM learns it from validation accuracy (arXiv:2511.11675)",
}
INITIALS = {
    "zero": "0, so that outputs stay as they are (Evci et al. 2020)",
    "kaiming": "by lot, uniform, from the layer's inputs (He et al. 2015)",
    "xavier": "by lot, uniform, from inputs and outputs (Glorot & Bengio 2010)",
    "fan_in": "by lot, normal, variance 2 over the inputs that live (Evci et al. 2022)",
    "stale": "as it was when it was cut",
    "reference": "as it is in the denser network",
}
MODES = {
    "offline": "into files below the run's directory, which wandb sync sends",
    "online": "sent at once; log in first, with wandb login",
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


@dataclass
class DatasetConfig:
    """What the network learns."""

    _target_: str = setting("a function (root, image_size) -> RawData")
    root: str = setting("directory of the data; the default is $REFINE_DATA, else data")
    image_size: int | None = setting("resize images to this many pixels a side", at_least=1)
    subset_size: int = setting("training images to use, balanced by class; 0: all", at_least=0)
    validation_size: int = setting("of these, held out for validation", at_least=0)
    augment: str = setting("done to a training batch", choices=AUGMENTATIONS, importable=True)


@dataclass
class PrunerConfig:
    """What a refinement cycle cuts."""

    importance: str = setting(
        "the score of a weight; lowest go first", choices=IMPORTANCES, importable=True
    )
    allocation: str = setting("how much each tensor loses", choices=ALLOCATIONS, importable=True)
    ratio: float = setting("share of the surviving weights that one cycle cuts", above=0, below=1)
    downscale_factor: float = setting(
        "the prunable weights are multiplied by this before the cut", above=0, at_most=1
    )
    granularity: str = setting("what goes together", choices=GRANULARITIES, default="weight")
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
        "share of its weights that every tensor keeps", at_least=0, below=1, default=0.0
    )
    scoring_batches: int = setting(
        "batches of training images for scores that need data", at_least=1, default=8
    )
    initial_sparsity: float = setting(
        "share of all parameters that is cut by lot before the first step",
        at_least=0, below=1, default=0.0,
    )  # fmt: skip
    initial_allocation: str = setting(
        "how that is divided among the tensors",
        choices=ALLOCATIONS, importable=True, default="erk",
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

    score: str = setting("which cut weights; highest first", choices=REGROWTHS, default="none")
    allocation: str = setting(
        "how much each tensor gets back", choices=REGROWTH_ALLOCATIONS, default="cut"
    )
    budget: float | None = setting(
        "share of all prunable weights a cycle; null: as many as it cut, or down to "
        "regrowth.target_sparsity",
        above=0, at_most=1, default=None,
    )  # fmt: skip
    target_sparsity: float | None = setting(
        "share of all parameters that is cut after it", at_least=0, below=1, default=None
    )
    initial: str = setting("value of a weight that is back", choices=INITIALS, default="zero")
    only_epochs: int = setting(
        "epochs for which nothing but the weights that are back is trained", at_least=0, default=0
    )
    source: str | None = setting(
        "denser network of saliency and reference: a run's directory or a .safetensors file; null: "
        "the run's own before its first cut",
        default=None,
    )
    controller: ControllerConfig = field(default_factory=ControllerConfig)


@dataclass
class ReplayConfig:
    """What a cycle trains on after its cut."""

    selection: str = setting("images that enter the buffer", choices=SELECTIONS, importable=True)
    buffer_size: int = setting("images in the buffer", at_least=1)
    steps: int = setting("training steps on the buffer; 0: no replay", at_least=0)
    batch_size: int = setting("images a step", at_least=1)


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
    by: str = setting("what interval, start, stop and at count", choices=UNITS, default="epoch")
    of: str = setting("what pruner.ratio is a share of", choices=SHARES, default="survivors")
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
    precision: str = setting("arithmetic of forward and backward pass", choices=PRECISIONS)
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
    mode: str = setting("where wandb's figures go", choices=MODES, default="offline")


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
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)


# Nodes of fixed keys; what else stands in the others is an argument of their _target_.
CLOSED = {
    RunConfig: "", PrunerConfig: "pruner", RegrowthConfig: "regrowth", ReplayConfig: "replay",
    TrainerConfig: "trainer",
}  # fmt: skip
GROUPS = (
    "model", "dataset", "pruner", "regrowth", "replay", "schedule", "trainer", "tracker",
    "experiment", "control",
)  # fmt: skip
BOUNDS = {
    "above": ("above", lambda value, bound: value > bound),
    "at_least": ("at least", lambda value, bound: value >= bound),
    "below": ("below", lambda value, bound: value < bound),
    "at_most": ("at most", lambda value, bound: value <= bound),
}


def config_directory() -> Path:
    """``conf/``: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


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


DOWNLOADED = tuple(
    f"refine.datasets.{name}" for name in ("digits", "cifar10", "cifar100", "fashion_mnist")
)


def fingerprint(config: DictConfig) -> str:
    """Eight hexadecimal digits that two configurations share if they make the same run."""
    values = {
        name: value
        for name, value in flat(OmegaConf.to_container(config, resolve=True))
        if not within(name, APART)
    }
    if config.dataset._target_ not in DOWNLOADED:  # elsewhere there are other pictures
        values["dataset.root"] = str(Path(config.dataset.root).expanduser().absolute())
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def allowed(entry: Any) -> str:
    """What a setting may hold, in words; empty where its type says it all."""
    choices, bounds = entry.metadata.get("choices"), entry.metadata.get("bounds", {})
    if choices:
        more = ", or an import path" if entry.metadata["importable"] else ""
        return ", ".join(choices) + more
    return " and ".join(f"{BOUNDS[name][0]} {value:g}" for name, value in bounds.items())


def validate(config: DictConfig) -> None:
    """Raises SettingError for the first value that is out of its range.

    Types and unknown keys were checked when the configuration was composed.
    """
    for name, entry in settings():
        if OmegaConf.is_missing(*_parent(config, name)):
            raise SettingError(name, f"is not set ({entry.metadata['meaning']})")
        value = OmegaConf.select(config, name)
        if value is None or not entry.metadata:
            continue
        bounds, choices = entry.metadata.get("bounds", {}), entry.metadata.get("choices")
        if not all(BOUNDS[bound][1](value, limit) for bound, limit in bounds.items()):
            raise SettingError(name, f"must be {allowed(entry)}, not {value}")
        if choices and value not in choices and not (entry.metadata["importable"] and "." in value):
            raise SettingError(name, f"there is no {value!r}; {one_of(list(choices), value)}")
        pattern = entry.metadata.get("pattern")
        if pattern and not re.fullmatch(pattern, value):
            raise SettingError(name, f"{value!r} is none of {entry.metadata['meaning']}")
    pruner = config.pruner
    try:
        check(pruner.importance, pruner.allocation, pruner.granularity, pruner.n, pruner.m)
    except ValueError as error:
        raise SettingError("pruner", str(error)) from error
    layers = pruner.layers or {}
    shares = layers.values() if isinstance(layers, Mapping) else ["no shares"]
    if not all(isinstance(share, int | float) and 0 <= share < 1 for share in shares):
        problem = f"gives globs shares from 0 to below 1, such as {{fc*: 0.3}}, not {layers}"
        raise SettingError("pruner.layers", problem)
    if config.regrowth.score != "none" and pruner.granularity != "weight":
        raise SettingError(
            "regrowth",
            f"returns single weights, which pruner.granularity={pruner.granularity} "
            "does not have; set one of the two to none or weight",
        )
    if config.regrowth.budget is not None and config.regrowth.target_sparsity is not None:
        raise SettingError("regrowth.budget", "and regrowth.target_sparsity exclude each other")
    if config.schedule._target_.endswith(".Cyclic") and config.regrowth.score == "none":
        raise SettingError(
            "schedule", "cyclic lets weights grow back; set regrowth=, such as random"
        )
    if pruner.granularity == "n_m" and (layers or pruner.min_layer_density):
        raise SettingError(
            "pruner.granularity",
            "n_m fixes every layer's share; pruner.layers and min_layer_density cannot",
        )
    adaptive = config.schedule._target_.endswith(".Adaptive")
    if adaptive and config.regrowth.score != "none" and config.regrowth.initial != "zero":
        raise SettingError(
            "regrowth.initial", "must be zero, or regrowth could leave what schedule=adaptive keeps"
        )
    by_validation = {
        "schedule=adaptive": adaptive,
        "regrowth.allocation=controller": config.regrowth.allocation == "controller",
    }
    for name, asked in by_validation.items():
        if asked and not config.dataset.validation_size:
            raise SettingError(
                "dataset.validation_size", f"{name} goes by validation accuracy; set it above 0"
            )
    schedule, epochs = config.schedule, config.trainer.epochs
    for name, epoch in (("start", schedule.start), ("stop", schedule.stop)):
        if epoch is not None and epoch > epochs and schedule.by == "epoch":
            problem = f"must be at most {epochs}, the epochs of the run, not {epoch}"
            raise SettingError(f"schedule.{name}", problem)
    for schema, name in CLOSED.items():
        known = [entry.name for entry in fields(schema)]
        for key in OmegaConf.select(config, name) if name else config:
            if key not in known:
                where = f"{name}.{key}" if name else key
                raise SettingError(where, f"there is no such setting; {one_of(known, key)}")
    for name in ("model", "trainer.optimizer", "trainer.lr_scheduler"):
        if not OmegaConf.select(config, f"{name}._target_"):
            raise SettingError(f"{name}._target_", "is not set; give the import path of a callable")
    per = OmegaConf.select(config, "trainer.lr_scheduler.per", default="epoch")
    if per not in ("batch", "epoch"):
        raise SettingError("trainer.lr_scheduler.per", f"must be batch or epoch, not {per}")


def _parent(config: DictConfig, name: str) -> tuple[DictConfig, str]:
    group, _, key = name.rpartition(".")
    return (OmegaConf.select(config, group) if group else config), key
