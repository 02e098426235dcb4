"""Which stored network does a setting name, and does it fit the one that is built?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from refine.errors import NetworkError, SettingError
from refine.evaluation.traceless import without_trace
from refine.records.rows import MODEL_FILE
from refine.setting import path_of
from refine.sparsity.shrink import named_tensors
from refine.stored.description import Description, beside
from refine.stored.network_file import read


@dataclass(frozen=True)
class Saved:
    """A network's tensors by name, and what is stored about it, if anything is.

    setting: which one names it; file: where the tensors stand.
    """

    setting: str
    file: Path
    tensors: Mapping[str, Tensor]
    description: Description | None


def saved(setting: str, path: str) -> Saved:
    """The network in a run's directory, or in a file that safetensors or ``refine-export`` wrote;
    nothing of it is executed. SettingError says why it cannot be read."""
    found = path_of(setting, path)
    file = found / MODEL_FILE if found.is_dir() else found
    try:
        file.open("rb").close()
    except OSError as error:
        raise SettingError(setting, f"cannot read {file}: {error.strerror}") from None
    try:
        tensors, description = read(file)
        return Saved(setting, file, tensors, description or beside(file))
    except NetworkError as error:
        raise SettingError(setting, str(error)) from None


def head_of(model: nn.Module, example: Tensor, classes: int) -> str | None:
    """The linear layer or convolution that is called last for the inputs ``example``, if it has an
    output for each class."""
    kinds = nn.Linear | nn.modules.conv._ConvNd
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    called: list[str] = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, name=name: called.append(name))
        for name, layer in layers.items()
    ]
    try:
        with without_trace(model, training=False), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    if not called or layers[called[-1]].weight.shape[0] != classes:
        return None
    return called[-1]


def check_fit(stored: Saved, model: nn.Module, head: str | None, image: Sequence[int]) -> None:
    """SettingError, which names what differs and the remedy, unless the tensors are those of
    ``model``, or of one that is narrower because channels have been taken out.

    head: the name of its last layer; image: the shape of the data's images.
    """
    own = {name: tuple(tensor.shape) for name, tensor, _ in named_tensors(model)}
    if head is not None and f"{head}.weight" in stored.tensors:
        outputs = stored.tensors[f"{head}.weight"].shape[:1]
        classes = own[f"{head}.weight"][0]
        if outputs != (classes,):
            raise SettingError(
                stored.setting,
                f"{stored.file} has {outputs[0] if outputs else 0:,} classes and the data "
                f"{classes:,} ({head}.weight)" + remedy_for_classes(stored.setting),
            )
    for name, shape in own.items():
        if name not in stored.tensors:
            continue
        theirs = tuple(stored.tensors[name].shape)
        if len(theirs) != len(shape) or any(a > b for a, b in zip(theirs, shape, strict=True)):
            raise SettingError(
                stored.setting,
                f"{stored.file} is of another network: {name} is {_by(theirs)} in it and "
                f"{_by(shape)} here{_sizes(stored, image)}; {remedy_for_network(stored.setting)}",
            )


def check_shape(stored: Saved, name: str, shape: Sequence[int]) -> None:
    """SettingError unless the stored tensor ``name`` has this shape."""
    theirs = stored.tensors[name].shape if name in stored.tensors else None
    if theirs is None or tuple(theirs) != tuple(shape):
        there = "not in it" if theirs is None else f"{_by(theirs)} in it and {_by(shape)} here"
        raise SettingError(
            stored.setting, f"{stored.file} is of another network: {name} is {there}"
        )


def check_images(stored: Saved, model: nn.Module, example: Tensor) -> None:
    """SettingError if ``model``, which has the stored tensors, cannot take the data's images."""
    try:
        with without_trace(model, training=False), torch.no_grad():
            model(example)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SettingError(
            stored.setting,
            f"{stored.file} does not take images of {_by(example.shape[1:])}"
            f"{_sizes(stored, example.shape[1:])}; {remedy_for_network(stored.setting)} "
            f"({reason:.120})",
        ) from error


def remedy_for_network(setting: str) -> str:
    """What can be done about another network."""
    if setting == "distillation.source":
        return "name its run's directory, which says which network it is"
    return "use the model and dataset.image_size that it was trained with"


def remedy_for_classes(setting: str) -> str:
    """What can be done about a network of other classes."""
    if setting == "start_from":
        return "; start_from_head=new gives it a new head for them"
    return "; name a network that was trained on the same classes"


def _sizes(stored: Saved, image: Sequence[int]) -> str:
    known = stored.description.input_shape if stored.description else ()
    if not known or tuple(known) == tuple(image):
        return ""
    return f" (it takes images of {_by(known)}, and the data has {_by(image)})"


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "one number"
