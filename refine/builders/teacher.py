"""Which trained network, of any architecture, does ``distillation.source`` name?"""

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from refine.builders.described import check_classes, normalized_as
from refine.builders.model import build_model
from refine.builders.saved import Saved, remedy_for_classes, saved
from refine.builders.start import load_into_
from refine.config import typed
from refine.datasets.course import Course
from refine.datasets.images import Normalization
from refine.datasets.prepare import Data
from refine.distillation.matching import Match, answer, features, logits
from refine.distillation.teacher import Renormalized
from refine.errors import NetworkError, SettingError
from refine.evaluation.traceless import in_mode
from refine.records.rows import CONFIG_FILE
from refine.rng import same_random_state
from refine.sparsity.copies import copy_of
from refine.stored.rebuild import load_tensors_, rebuild

SOURCE = "distillation.source"


def dense_teacher(path: str, model: nn.Module, course: Course) -> nn.Module:
    """The network that ``path`` names, on the device, for images as ``model`` is given them.

    Its file or its run says which network it is; a run's own code for it is executed. Without
    either it has the architecture of ``model``. SettingError if it is of other classes, or does not
    fit.
    """
    stored, data = saved(SOURCE, path), course.tasks[0]
    remedy = "name a teacher of the same classes"
    check_classes(SOURCE, stored.file, stored.description, data, remedy)
    with same_random_state():
        network = _built(stored, data, course.example.device)
    if network is None:
        network = copy_of(model)
        load_into_(stored, network, course)
    network.to(course.example.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        its = normalized_as(data, stored.description, f"{SOURCE}: {stored.file}").normalization
    except NetworkError as error:
        raise SettingError(SOURCE, str(error)) from None
    return _renormalized(network, data.normalization, its)


def _built(stored: Saved, data: Data, device: torch.device) -> nn.Module | None:
    """The network as the file says or the configuration of the run that left it; None if neither
    does."""
    config = stored.file.with_name(CONFIG_FILE)
    try:
        if stored.description is not None and stored.description.function is not None:
            return rebuild(stored.file, stored.tensors, stored.description)
        if not config.is_file():
            return None
        found = OmegaConf.load(config)
        if not isinstance(found, DictConfig):
            raise ValueError(f"{config} is not a table")
        network = build_model(typed(found).model, data, device)
        load_tensors_(network, {name: t.to(device) for name, t in stored.tensors.items()})
        return network
    except Exception as error:  # YAML, OmegaConf and the run's own code refuse in many ways
        reason = " ".join(str(error).split())
        raise SettingError(SOURCE, f"{stored.file} cannot be built: {reason:.200}") from error


def _renormalized(network: nn.Module, given: Normalization, its: Normalization) -> nn.Module:
    if torch.equal(given.mean, its.mean) and torch.equal(given.std, its.std):
        return network
    return Renormalized(network, given.std / its.std, (given.mean - its.mean) / its.std)


def check_answers(teacher: nn.Module, own: Tensor, example: Tensor, match: Match) -> None:
    """SettingError unless the teacher gives, for images ``example``, something of the shape of the
    student's ``own`` logits or features."""
    try:
        with in_mode(teacher, training=False), torch.no_grad():
            theirs = answer(teacher, example, match)[1]
    except Exception as error:
        shape = "x".join(map(str, example.shape[1:]))
        reason = " ".join(str(error).split())
        problem = f"the teacher cannot take images of {shape}: {reason:.160}"
        raise SettingError(SOURCE, problem) from error
    if match not in (logits, features) or theirs.shape == own.shape:
        return
    counts = f"{theirs[0].numel():,} for an image, and the network {own[0].numel():,}"
    if match is features:
        raise SettingError(
            "distillation.match",
            f"the teacher has features of {counts}; distillation.match=logits takes a teacher of "
            "any architecture",
        )
    raise SettingError(SOURCE, f"the teacher gives {counts}{remedy_for_classes(SOURCE)}")
