"""Which optimizer and which schedule of rates does torch not have? Muon and Stages."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from refine.training.device import has_fast_bf16

# Quintic Newton-Schulz iteration of Jordan et al. 2024 (Muon): p(x) = a x + b x^3 + c x^5 brings
# singular values between 0 and 1 close to 1 in few steps.
A, B, C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update of a weight tensor is brought close to an orthogonal matrix
    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon); a filter is a row of it.

    Every direction in a layer then moves at the same speed, which pays where steps are few. Tensors
    with fewer than two dimensions (biases, norms) take plain Nesterov steps at
    ``lr * vector_lr_ratio``, with ``vector_weight_decay`` added to the gradient.

    lr: length of a step in each direction, in units of the weights. weight_decay: decoupled, a step
    shrinks a tensor by ``lr * weight_decay``. torch.optim.Muon takes matrices only; this one takes
    whole networks, convolutions included.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.9,
        weight_decay: float = 0.02,
        vector_lr_ratio: float = 2.5,
        vector_weight_decay: float = 0.0005,
        iterations: int = 3,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, not {momentum}")
        if lr < 0 or iterations < 1:
            raise ValueError("lr must not be negative, and iterations be at least 1")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "vector_lr_ratio": vector_lr_ratio,
            "vector_weight_decay": vector_weight_decay,
            "iterations": iterations,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One step on the gradients; returns what ``closure`` returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state, gradient = self.state[weight], weight.grad
                if weight.dim() < 2:
                    gradient = gradient.add(weight, alpha=group["vector_weight_decay"])
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                velocity = state["momentum"].mul_(momentum).add_(gradient)
                update = gradient.add(velocity, alpha=momentum)
                if weight.dim() < 2:
                    weight.add_(update, alpha=-lr * group["vector_lr_ratio"])
                    continue
                rows, columns = len(weight), weight[0].numel()
                matrix = orthogonalized(update.reshape(rows, columns), group["iterations"])
                weight.mul_(1 - lr * group["weight_decay"])
                # A tall matrix has more rows than can be orthogonal; its step is scaled up in turn.
                scale = max(1.0, rows / columns) ** 0.5
                weight.add_(matrix.view(weight.shape), alpha=-lr * scale)
        return loss


def orthogonalized(matrix: Tensor, iterations: int) -> Tensor:
    """A matrix with the singular vectors of ``matrix`` and singular values near 1, of its shape and
    type; those that are tiny beside the largest take more ``iterations``."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    # The iteration forgives the rounding of bf16, and large products are twice as fast in it where
    # there are instructions for it; elsewhere they take thirty times as long.
    narrow = matrix.numel() > 100_000 and has_fast_bf16(matrix.device)
    x = x.to(torch.bfloat16) if narrow else x.float()
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Stages(LRScheduler):
    """Stages, each with a rate that is divided by 10 at its milestones and with a weight decay,
    such as pretraining, sparse training and fine-tuning (Fang et al. 2023).

    lengths: epochs of each stage; if training is longer, the last rate stays. rates: the first
    rate of each stage. milestones: epochs after the start of each. weight_decays: of each; None
    keeps the optimizer's. ValueError unless there is one of each for every stage.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lengths: Sequence[int],
        rates: Sequence[float],
        milestones: Sequence[Sequence[int]],
        weight_decays: Sequence[float] | None = None,
    ):
        counts = {len(lengths), len(rates), len(milestones)}
        if weight_decays is not None:
            counts.add(len(weight_decays))
        if len(counts) > 1 or not lengths:
            raise ValueError("lengths, rates, milestones and weight_decays have one for each stage")
        if min(lengths) < 1:
            raise ValueError("every stage takes at least an epoch")
        self.lengths, self.rates, self.milestones = lengths, rates, milestones
        self.weight_decays = weight_decays
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of the epoch that follows, for every group of parameters."""
        stage, epoch = self._at()
        passed = sum(epoch >= milestone for milestone in self.milestones[stage])
        if self.weight_decays is not None:
            for group in self.optimizer.param_groups:
                group["weight_decay"] = self.weight_decays[stage]
        return [self.rates[stage] * 0.1**passed] * len(self.optimizer.param_groups)

    def _at(self) -> tuple[int, int]:
        """The present stage, and how many of its epochs are done."""
        left = self.last_epoch
        for stage, length in enumerate(self.lengths):
            if left < length or stage == len(self.lengths) - 1:
                return stage, left
            left -= length
        raise AssertionError
