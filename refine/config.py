"""Which settings are there, of what type and in what range, and what do they mean?

The values are in ``conf/``; ``--help`` and the error texts are made from here. This module
imports neither torch nor Hydra.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from refine.errors import SettingError, one_of
from refine.names import APART, flat, within

IMPORTANCES = {
    "magnitude": "|w| (Han et al. 2015)",
    "random": "a number by lot",
    "none": "no score, so nothing is cut",
}
ALLOCATIONS = {
    "layerwise": "every tensor loses the same share of its own survivors (the paper)",
    "global": "one ranking over all tensors",
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
    interval: int = setting("epochs from one cycle to the next", at_least=1)
    start: int | None = setting(
        "epoch after which the first cycle comes; null: interval (one_shot: half-way)", at_least=1
    )
    stop: int | None = setting(
        "last epoch that a cycle may follow; null: the last but one of the run", at_least=1
    )
    cycles_at_once: int = setting("as how many cycles one_shot cuts", at_least=1)
    target_sparsity: float | None = setting(
        "share of all parameters that cubic has cut in the end", above=0, below=1
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
    model: dict[str, Any] = node("any callable: _target_ and its arguments")
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)


# Nodes of fixed keys; what else stands in the others is an argument of their _target_.
CLOSED = {RunConfig: "", PrunerConfig: "pruner", ReplayConfig: "replay", TrainerConfig: "trainer"}
GROUPS = (
    "model", "dataset", "pruner", "replay", "schedule", "trainer", "tracker", "experiment",
    "control",
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
    start, epochs = config.schedule.start, config.trainer.epochs
    for name, epoch in (("start", start), ("stop", config.schedule.stop)):
        if epoch is not None and epoch > epochs:
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
    return (config[group] if group else config), key
