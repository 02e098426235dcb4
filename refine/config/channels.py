"""What goes together with a pruner that takes whole channels out, and with a regularizer?"""

from collections.abc import Mapping

from omegaconf import DictConfig

from refine.config.names import TARGETS
from refine.errors import SettingError

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
