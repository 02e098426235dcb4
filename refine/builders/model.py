"""Which network does a configuration describe?"""

from typing import Any

import torch
from torch import Tensor, nn

from refine.config.instantiate import build, imported, parameters_of
from refine.datasets.prepare import Data
from refine.errors import SettingError
from refine.evaluation.traceless import in_mode, without_trace


def build_model(node: dict[str, Any], data: Data, device: torch.device) -> nn.Module:
    """The network of a ``model`` node, on the device, checked to give one logit for each class."""
    classes = len(data.classes)
    model = build("model", node, offered=_offered(data))
    if not isinstance(model, nn.Module):
        problem = f"{node['_target_']} made no nn.Module but {model!r:.60}"
        raise SettingError("model._target_", problem)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, _ = next(iter(data.plain(data.train[:2])))
    try:
        with in_mode(model, training=False), torch.no_grad():
            logits = model(images)
    except Exception as error:
        shape = "x".join(map(str, data.image_shape))
        raise SettingError("model", f"cannot take images of {shape}: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(images), classes):
        gives = tuple(getattr(logits, "shape", ())) or type(logits).__name__
        raise SettingError(
            "model",
            f"gives {gives} for {len(images)} images; {classes} classes need ({len(images)}, "
            f"{classes}). Set its number of outputs, such as +model.num_classes={classes}",
        )
    if getattr(model, "aux_logits", False):
        _check_training(model, images)
    return model


def _check_training(model: nn.Module, images: Tensor) -> None:
    """SettingError if the model's auxiliary heads give outputs of their own in training."""
    try:
        with without_trace(model, training=True), torch.no_grad():
            gives: object = model(images)
    except Exception as error:  # the heads need larger images
        gives = error
    if not isinstance(gives, Tensor):
        raise SettingError(
            "model",
            f"has auxiliary heads and gives {type(gives).__name__} in training, where logits are "
            "needed: leave the heads out with +model.aux_logits=false",
        )


def arguments_of(node: dict[str, Any], data: Data) -> dict[str, Any]:
    """The arguments that the network's function is called with."""
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    names, _ = parameters_of(imported("model._target_", node["_target_"]))
    offered = {name: value for name, value in _offered(data).items() if name in names}
    return offered | given


def _offered(data: Data) -> dict[str, Any]:
    return {"num_classes": len(data.classes), "image_shape": data.image_shape}
