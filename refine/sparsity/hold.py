"""What keeps its value while the rest of a network trains?"""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from refine.sparsity.masks import INTEGERS


class Freeze:
    """Keeps every parameter of ``model`` at its present value, to the bit, but for the weights that
    ``free`` marks; buffers, such as batch norm's statistics, go on.

    free: a boolean tensor by parameter name; a name that is missing is kept whole. A copy of the
        parameters is held. After weights were changed on purpose (a cut, a regrowth), make a new
        one. Of the same weights, the same ``free`` makes it again: that is all to be saved of it.
    """

    def __init__(self, model: nn.Module, free: Mapping[str, Tensor]):
        parameters = dict(model.named_parameters())
        if unknown := [name for name in free if name not in parameters]:
            raise ValueError(f"the model has no parameter {unknown[0]!r}")
        self.free = {name: marks.clone() for name, marks in free.items()}
        self._kept = {name: value.detach().clone() for name, value in parameters.items()}
        self._bits: dict[str, tuple[Tensor, Tensor]] = {}  # ones where free; the kept, else zeros

    @torch.no_grad()
    def zero_gradients_(self, model: nn.Module, among: Collection[int]) -> None:
        """Sets the gradients of all that is kept to 0, of parameters of the ids ``among``: they
        take no part in what an optimizer makes of a whole tensor."""
        for name, parameter in self._found(model, among):
            if (gradient := parameter.grad) is None:
                continue
            if name in self.free and not gradient.is_sparse:
                ones, _ = self._as_bits(name, parameter)
                gradient.view(ones.dtype).bitwise_and_(ones)
            else:
                gradient.zero_()

    @torch.no_grad()
    def restore_(self, model: nn.Module, among: Collection[int]) -> None:
        """Puts the kept values back, of parameters of the ids ``among``."""
        for name, parameter in self._found(model, among):
            if name in self.free:
                ones, kept = self._as_bits(name, parameter)
                parameter.view(ones.dtype).bitwise_and_(ones).bitwise_or_(kept)
            else:
                parameter.copy_(self._kept_as(parameter, name))

    def _found(
        self, model: nn.Module, among: Collection[int]
    ) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in model.named_parameters():
            if name in self._kept and id(parameter) in among:
                yield name, parameter

    def _kept_as(self, parameter: Tensor, name: str) -> Tensor:
        kept = self._kept[name]  # the model may have moved or changed its precision
        if kept.device != parameter.device or kept.dtype != parameter.dtype:
            kept = self._kept[name] = kept.to(parameter.device, parameter.dtype)
            self._bits.pop(name, None)
        return kept

    def _as_bits(self, name: str, parameter: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._kept_as(parameter, name)
        if name not in self._bits:
            integer = INTEGERS[parameter.element_size()]
            ones = torch.where(self.free[name].to(parameter.device), -1, 0).to(integer)
            self._bits[name] = ones, kept.view(integer) & ~ones
        return self._bits[name]
