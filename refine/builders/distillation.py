"""Which teacher does ``distillation`` describe?"""

import torch
from torch import nn

from refine.builders.saved import saved
from refine.builders.start import load_into_
from refine.config.instantiate import function
from refine.config.schema import DistillationConfig
from refine.datasets.course import Course
from refine.distillation import Dense, Distillation, Ema, Self
from refine.distillation.matching import answer
from refine.distillation.teacher import Teacher
from refine.errors import SettingError
from refine.evaluation.traceless import in_mode
from refine.sparsity.copies import copy_of


def build_distillation(node: DistillationConfig, model: nn.Module, course: Course) -> Distillation:
    """The teacher that ``distillation`` describes."""
    teacher: Teacher
    match node.teacher:
        case "self":
            teacher = Self()
        case "ema":
            teacher = Ema(node.decay)
        case "dense":
            network = copy_of(model)
            load_into_(saved("distillation.source", str(node.source)), network, course)
            teacher = Dense(network)
        case _:
            return Distillation()
    match = function("distillation.match", node.match, "refine.distillation.matching")
    try:  # so that it fails now rather than after the first cut
        with in_mode(model, training=False), torch.no_grad():
            answer(model, course.example, match)
    except ValueError as error:
        raise SettingError("distillation.match", str(error)) from None
    return Distillation(
        teacher,
        match,
        temperature=node.temperature,
        weight=node.weight,
        during=node.during,
    )
