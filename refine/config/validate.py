"""What is wrong with the values of a configuration?"""

import re
from collections.abc import Mapping
from dataclasses import fields
from math import isfinite

from omegaconf import DictConfig, OmegaConf

from refine.config.fingerprint import TARGETS
from refine.config.schema import CLOSED, settings
from refine.errors import SettingError, one_of
from refine.setting import BOUNDS, allowed


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
        if isinstance(value, float) and not isfinite(value):
            raise SettingError(name, f"must be finite, not {value}")
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
    _check_consolidation(config)
    check_channels(config)
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


def _check_consolidation(config: DictConfig) -> None:
    """Of replay, distillation, cache and recovery."""
    replay, distillation, recovery = config.replay, config.distillation, config.recovery
    if distillation.teacher == "dense" and not distillation.source:
        problem = "is not set; name a trained network's directory or .safetensors file"
        raise SettingError("distillation.source", problem)
    if distillation.teacher != "none" and distillation.during == "replay" and not replay.steps:
        problem = "replay has no steps with replay.steps=0; set distillation.during=cycle"
        raise SettingError("distillation.during", problem)
    if config.regrowth.source == "cache" and config.cache.kind == "none":
        raise SettingError("regrowth.source", "cache needs one; set cache=memory or cache=disk")
    by_itself = replay.storage in ("herding", "reservoir", "generative", "training")
    if by_itself and replay.selection != "uniform":
        problem = f"{replay.storage} goes by no rank of images; set replay.selection=uniform"
        raise SettingError("replay.storage", problem)
    if replay.storage in ("generative", "training") and replay.sampling != "shuffled":
        problem = f"there is no memory to draw from with replay.storage={replay.storage}"
        raise SettingError("replay.sampling", problem)
    regrowth = config.regrowth
    by_reference = {"reference", "saliency", "greedy", "proportional"}
    chosen = {regrowth.score, regrowth.allocation, regrowth.initial}
    if regrowth.source is not None and by_reference.isdisjoint(chosen):
        problem = "is looked at by regrowth=reference and saliency; or regrowth.initial=reference"
        raise SettingError("regrowth.source", problem)
    if recovery.rewind_to is not None and not recovery.rewind_weights:
        raise SettingError("recovery.rewind_to", "needs recovery.rewind_weights=true")
    if recovery.rewind_weights and config.schedule._target_.endswith(".Adaptive"):
        problem = "would undo what schedule=adaptive has measured; choose another of the two"
        raise SettingError("recovery.rewind_weights", problem)


def _parent(config: DictConfig, name: str) -> tuple[DictConfig, str]:
    group, _, key = name.rpartition(".")
    return (OmegaConf.select(config, group) if group else config), key


def check(
    importance_name: str, allocation_name: str, granularity_name: str, n: int = 2, m: int = 4
) -> None:
    """ValueError, of one line, if these cannot go together."""
    if granularity_name == "n_m" and not 0 < n < m:
        raise ValueError(f"n_m keeps n of every m weights: 0 < n < m, not n={n} and m={m}")
    if granularity_name == "n_m" and allocation_name != "layerwise":
        raise ValueError(
            f"n_m goes with the allocation layerwise, not {allocation_name}: "
            f"{n} of {m} is already every layer's share"
        )
    if importance_name == "similarity" and granularity_name != "filter":
        raise ValueError(
            f"the importance similarity goes with the granularity filter, not {granularity_name}: "
            "its scores are of filters"
        )


OF_CHANNELS = {**dict.fromkeys(TARGETS), "round_to": 1, "min_channels": 1}


def check_channels(config: DictConfig) -> None:
    """SettingError for the first setting that does not fit."""
    pruner, schedule = config.pruner, config.schedule
    _check_regularizer(config)
    if pruner.criterion == "none":
        for name, unset in OF_CHANNELS.items():
            if pruner[name] != unset and pruner.importance != "none":  # control=dense cuts nothing
                raise SettingError(f"pruner.{name}", "is of channels; set pruner=structured")
        return
    plain = {
        "pruner.importance": (pruner.importance, "none", "pruner.criterion ranks channels"),
        "pruner.granularity": (pruner.granularity, "weight", "channels go as a whole"),
        "pruner.initial_sparsity": (pruner.initial_sparsity, 0, "is of single weights"),
        "regrowth.score": (config.regrowth.score, "none", "channels that are gone do not grow"),
        "cache": (config.cache.kind, "none", "keeps single weights"),
    }
    for name, (value, wanted, reason) in plain.items():
        if value != wanted:
            raise SettingError(name, f"must be {wanted} with pruner=structured: {reason}")
    if pruner.allocation not in ("global", "layerwise"):
        problem = f"of channels it is global or layerwise, not {pruner.allocation}"
        raise SettingError("pruner.allocation", problem)
    if config.distillation.teacher != "none" and config.distillation.match == "features":
        problem = "compares unit by unit, and pruner=structured takes units out; set logits"
        raise SettingError("distillation.match", problem)
    layers = pruner.layers or {}
    if not isinstance(layers, Mapping) or any(layers.values()):
        problem = "of channels only 0, which leaves a layer as it is, such as {conv1: 0}"
        raise SettingError("pruner.layers", problem)
    given = [name for name in TARGETS if pruner[name] is not None]
    if len(given) > 1:
        raise SettingError(f"pruner.{given[1]}", f"and pruner.{given[0]} exclude each other")
    kind = schedule._target_.rpartition(".")[2]
    if given and kind not in ("OneShot", "Periodic"):
        problem = f"goes with schedule=one_shot or periodic, whose cycles share the way, not {kind}"
        raise SettingError(f"pruner.{given[0]}", problem)
    if given and schedule.target_sparsity is not None:
        problem = f"and pruner.{given[0]} exclude each other"
        raise SettingError("schedule.target_sparsity", problem)


def _check_regularizer(config: DictConfig) -> None:
    node, epochs = config.regularizer, config.trainer.epochs
    if node.kind == "none":
        return
    if node.start >= epochs:
        problem = f"must be below {epochs}, the epochs of the run, not {node.start}"
        raise SettingError("regularizer.start", problem)
    if node.stop is not None and node.stop <= node.start:
        problem = f"must be above regularizer.start={node.start}, not {node.stop}"
        raise SettingError("regularizer.stop", problem)
