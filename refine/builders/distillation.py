"""Which teacher does ``distillation`` describe?"""

import torch
from torch import nn

from refine.builders.teacher import check_answers, dense_teacher
from refine.config.instantiate import function
from refine.config.schema import DistillationConfig
from refine.datasets.course import Course
from refine.distillation import Dense, Distillation, Ema, Self
from refine.distillation.matching import answer
from refine.distillation.teacher import Teacher
from refine.errors import SettingError
from refine.evaluation.traceless import in_mode


def build_distillation(node: DistillationConfig, model: nn.Module, course: Course) -> Distillation:
    """The teacher that ``distillation`` describes."""
    teacher: Teacher
    match node.teacher:
        case "self":
            teacher = Self()
        case "ema":
            teacher = Ema(node.decay)
        case "dense":
            teacher = Dense(dense_teacher(str(node.source), model, course))
        case _:
            return Distillation()
    match = function("distillation.match", node.match, "refine.distillation.matching")
    try:  # so that it fails now rather than after the first cut
        with in_mode(model, training=False), torch.no_grad():
            own = answer(model, course.example, match)[1]
    except ValueError as error:
        raise SettingError("distillation.match", str(error)) from None
    if isinstance(teacher, Dense) and teacher.network is not None:
        check_answers(teacher.network, own, course.example, match)
    return Distillation(
        teacher,
        match,
        temperature=node.temperature,
        weight=node.weight,
        during=node.during,
    )
