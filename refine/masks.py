"""Which weights live?"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of the weights' type
PRUNABLE_LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.MultiheadAttention,
    nn.RNNBase,
)


def prunable_names(model: nn.Module) -> list[str]:
    """Names of the weight tensors (two or more dimensions) of convolutions, linear, attention and
    recurrent layers. Biases, norms and embeddings are never among them."""
    owners = (module for module in model.modules() if isinstance(module, PRUNABLE_LAYERS))
    weights = {
        id(parameter)
        for owner in owners
        for name, parameter in owner.named_parameters(recurse=False)
        if "weight" in name and parameter.dim() >= 2
    }
    return [name for name, parameter in model.named_parameters() if id(parameter) in weights]


class Masks(Mapping[str, Tensor]):
    """A boolean tensor for each prunable weight tensor of a model: True where a weight lives.

    Invariant: ``zero_cut_()`` leaves every cut weight at exactly 0.0. Counts are exact integers.
    ValueError if a name in ``prunable`` is no parameter, or the model has nothing to prune.
    """

    def __init__(self, model: nn.Module, prunable: Iterable[str] | None = None):
        self._model = model
        parameters = dict(model.named_parameters())
        names = prunable_names(model) if prunable is None else list(prunable)
        if unknown := [name for name in names if name not in parameters]:
            raise ValueError(f"the model has no parameter {unknown[0]!r}")
        if not names:
            raise ValueError(
                "the model has no convolution, linear, attention or recurrent layer; "
                "name the tensors to prune with prunable=[...]"
            )
        self._alive = {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in names}
        self._bits: list[tuple[nn.Parameter, Tensor]] = []  # (weight, all ones where it lives)

    def __getitem__(self, name: str) -> Tensor:
        return self._alive[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._alive)

    def __len__(self) -> int:
        return len(self._alive)

    def weights(self) -> dict[str, nn.Parameter]:
        """The prunable parameters, by name, as the model has them now."""
        parameters = dict(self._model.named_parameters())
        return {name: parameters[name] for name in self._alive}

    @property
    def prunable(self) -> int:
        """How many weights could ever be cut."""
        return sum(mask.numel() for mask in self._alive.values())

    @property
    def surviving(self) -> int:
        """How many of these live."""
        return sum(int(mask.sum()) for mask in self._alive.values())

    @torch.no_grad()
    def cut_(self, scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        """Cuts ``counts[name]`` survivors of each tensor, lowest score first, equal scores in the
        order of their index. ValueError where a score is NaN or a count exceeds the survivors; then
        nothing is cut."""
        going = {
            name: lowest(scores[name], self._alive[name], count)
            for name, count in counts.items()
            if count
        }
        for name, marked in going.items():  # only now that all of them could be found
            self._alive[name] &= ~marked
        self.refresh()
        self.zero_cut_()

    def refresh(self) -> None:
        """Looks the parameters up again; after a cut and whenever the model's were replaced."""
        weights = self.weights()
        self._bits = [
            (weight, torch.where(mask, -1, 0).to(INTEGERS[weight.element_size()]))
            for weight, mask in ((weights[name], mask) for name, mask in self._alive.items())
            if not bool(mask.all())
        ]

    @torch.no_grad()
    def zero_cut_(self) -> None:
        """Sets every cut weight to exactly 0.0, in place.

        As this runs after every training step it works on the bits: an AND is 20 times faster
        than ``masked_fill_`` on a CPU and, unlike a product, leaves neither -0.0 nor NaN behind.
        """
        for weight, bits in self._on_device():
            weight.view(bits.dtype).bitwise_and_(bits)

    @torch.no_grad()
    def zero_cut_gradients_(self) -> None:
        """Sets the gradient of every cut weight to exactly 0.0, in place."""
        for weight, bits in self._on_device():
            if weight.grad is not None and not weight.grad.is_sparse:
                weight.grad.view(bits.dtype).bitwise_and_(bits)

    def _on_device(self) -> list[tuple[nn.Parameter, Tensor]]:
        if any(bits.device != weight.device for weight, bits in self._bits):  # the model has moved
            self._bits = [(weight, bits.to(weight.device)) for weight, bits in self._bits]
        return self._bits

    @torch.no_grad()
    def zero_moments_(self, optimizer: torch.optim.Optimizer) -> None:
        """Sets what ``optimizer`` remembers of every cut weight (momentum, Adam's moments) to 0."""
        weights = self.weights()
        for name, mask in self._alive.items():
            for moment in optimizer.state.get(weights[name], {}).values():
                if isinstance(moment, Tensor) and moment.shape == mask.shape:
                    moment.masked_fill_(~mask.to(moment.device), 0.0)


def lowest(scores: Tensor, alive: Tensor, count: int) -> Tensor:
    """Marks the ``count`` lowest of the ``scores`` at positions that live; ties by index."""
    living = scores[alive].to(torch.promote_types(scores.dtype, torch.float32))
    if count > len(living):
        raise ValueError(f"{count} of {len(living)} survivors cannot be cut")
    if bool(living.isnan().any()):
        raise ValueError("a score is NaN; the weights or the gradients are no longer finite")
    marked = torch.zeros_like(alive)
    if count == 0:
        return marked
    threshold = living.kthvalue(count).values
    chosen = living < threshold
    ties = (living == threshold).nonzero().squeeze(1)
    chosen[ties[: count - int(chosen.sum())]] = True
    marked[alive] = chosen
    return marked
