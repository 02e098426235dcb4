"""What does a network predict for a batch, and how wrong is that?"""

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refine.batches import Inputs

LossFunction = Callable[..., Tensor]  # (outputs, targets) -> scalar
# Names under which an output that holds several tensors has the predictions: Hugging Face's and
# torchvision's.
PREDICTIONS = ("logits", "out")
NO_SINGLE = "the loss gives no number for each example (reduction=none)"


def outputs(model: Callable[..., Any], inputs: Inputs) -> Any:
    """What ``model`` returns for ``inputs``: a mapping is passed as keyword arguments, without
    ``labels`` if the network does not take them, a tuple or list as positional ones."""
    if isinstance(inputs, Mapping):
        takes = _parameters(getattr(model, "forward", model))
        known = "labels" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
        return model(**{n: value for n, value in inputs.items() if known or n != "labels"})
    if type(inputs) in (tuple, list):
        return model(*inputs)
    return model(inputs)


def predictions(made: Any) -> Tensor:
    """The tensor of predictions in what a network returned: itself, its entry ``logits`` or
    ``out``, or the first of a tuple. ValueError if there is none."""
    if isinstance(made, Mapping):
        made = next((made[name] for name in PREDICTIONS if name in made), None)
    elif not isinstance(made, Tensor) and isinstance(getattr(made, "logits", None), Tensor):
        made = made.logits
    elif isinstance(made, tuple | list) and made:
        made = made[0]
    if not isinstance(made, Tensor):
        raise ValueError("the network returns no tensor, nor one named logits or out")
    return made


class Objective:
    """The loss that a refinement was given, for everything in it that needs one.

    loss: ``(what the network returns, targets) -> scalar``: a function, or a module such as
        ``nn.CrossEntropyLoss()``. torch's own losses are given the predictions alone. None: the
        ``loss`` that the network itself returns, as Hugging Face's do, else cross entropy.

    ``objective(outputs, targets, reduction="none")`` is the loss of each example, (N,): the mean
    over its positions, without those of ``ignore_index``.
    """

    def __init__(self, loss: "LossFunction | Objective | None" = None):
        self.loss: LossFunction | None = loss.loss if isinstance(loss, Objective) else loss
        self._used: LossFunction = F.cross_entropy if self.loss is None else self.loss

    def __call__(self, made: Any, targets: Tensor, reduction: str = "mean") -> Tensor:
        if reduction == "none":
            return self._each(made, targets)
        own = self._own(made)
        return self._used(self._seen(made), targets) if own is None else own

    @property
    def function(self) -> LossFunction:
        """The loss without what was set by functools.partial."""
        return self._used.func if isinstance(self._used, partial) else self._used

    @property
    def ignored(self) -> int | None:
        """The class of targets that do not count."""
        found = getattr(self._used, "ignore_index", None)
        if found is None and isinstance(self._used, partial):
            found = self._used.keywords.get("ignore_index")
        if found is None and "ignore_index" in (known := _parameters(self._used)):
            found = known["ignore_index"].default
        return found if isinstance(found, int) else None

    def _own(self, made: Any) -> Tensor | None:
        if self.loss is not None or isinstance(made, Tensor):
            return None
        found = made.get("loss") if isinstance(made, Mapping) else getattr(made, "loss", None)
        return found if isinstance(found, Tensor) else None

    def _seen(self, made: Any) -> Any:
        return predictions(made) if self.loss is None or _is_torchs(self.function) else made

    def _each(self, made: Any, targets: Tensor) -> Tensor:
        own = self._own(made)
        if own is not None:
            return _as_the_network_does(predictions(made), targets, own)
        seen = self._seen(made)
        if isinstance(self._used, nn.Module) and hasattr(self._used, "reduction"):
            single = copy.copy(self._used)
            vars(single)["reduction"] = "none"
            found = single(seen, targets)
        elif "reduction" in _parameters(self._used):
            found = self._used(seen, targets, reduction="none")
        elif isinstance(seen, Tensor):
            ones = range(len(targets))
            found = torch.stack([self._used(seen[i : i + 1], targets[i : i + 1]) for i in ones])
        else:
            raise ValueError(NO_SINGLE)
        return _by_example(found, targets, self.ignored)


def _by_example(found: Tensor, targets: Tensor, ignored: int | None) -> Tensor:
    """(N, ...) as (N,): the mean of each example's positions that are not ignored."""
    if found.dim() == 0 or len(found) != len(targets):
        raise ValueError(NO_SINGLE)
    if found.dim() == 1:
        return found
    if ignored is None or found.shape != targets.shape or targets.is_floating_point():
        return found.flatten(1).mean(1)
    counts = (targets != ignored).flatten(1)
    return (found.flatten(1) * counts).sum(1) / counts.sum(1).clamp(min=1)


def _as_the_network_does(made: Tensor, targets: Tensor, own: Tensor) -> Tensor:
    """The loss of each example, by the usual rule whose mean over the batch is the network's own:
    classes, classes at each position, or the class of the next position."""
    ways: list[Callable[[], tuple[Tensor, Tensor]]] = [
        lambda: (F.cross_entropy(made, targets, reduction="none"), targets),
        lambda: (F.cross_entropy(made.transpose(1, 2), targets, reduction="none"), targets),
        lambda: (
            F.cross_entropy(made[:, :-1].transpose(1, 2), targets[:, 1:], reduction="none"),
            targets[:, 1:],
        ),
        lambda: (
            F.binary_cross_entropy_with_logits(made, targets, reduction="none"),
            torch.ones_like(targets, dtype=torch.int64),
        ),
        lambda: (
            F.mse_loss(made.reshape(targets.shape), targets, reduction="none"),
            torch.ones_like(targets, dtype=torch.int64),
        ),
    ]
    for way in ways:
        try:
            found, counted = way()
        except (RuntimeError, ValueError, IndexError):
            continue
        counts = counted != -100
        mean = (found * counts).sum() / counts.sum().clamp(min=1)
        if torch.isclose(mean.float(), own.float(), rtol=1e-2, atol=1e-4):
            return _by_example(found, counted, -100)
    raise ValueError(
        "the loss that the network computes itself gives no number for each example; "
        "give RuntimeRefinement a loss, or a replay that needs none"
    )


def _is_torchs(loss: LossFunction) -> bool:
    kind = type(loss) if isinstance(loss, nn.Module) else loss
    return str(getattr(kind, "__module__", "")).startswith("torch.nn.")


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return {}
