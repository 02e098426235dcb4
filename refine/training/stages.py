"""Which learning rate and weight decay does each stage of a long training have?"""

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Stages(LRScheduler):
    """Stages one after another, each with a rate that is divided by 10 at its milestones, and a
    weight decay, as of pretraining, sparse training and fine-tuning (Fang et al. 2023).

    lengths: epochs of each stage; the last one's rate stays where training goes on longer. rates:
    with which each begins. milestones: of each, epochs after its begin. weight_decays: of each;
    None leaves the optimizer's. ValueError unless these are as many.
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

    def get_lr(self) -> list[float]:
        """The rate of the epoch that follows, for every group of parameters."""
        stage, epoch = self._at()
        passed = sum(epoch >= milestone for milestone in self.milestones[stage])
        if self.weight_decays is not None:
            for group in self.optimizer.param_groups:
                group["weight_decay"] = self.weight_decays[stage]
        return [self.rates[stage] * 0.1**passed] * len(self.optimizer.param_groups)

    def _at(self) -> tuple[int, int]:
        """The stage, and how many of its epochs are over."""
        left = self.last_epoch
        for stage, length in enumerate(self.lengths):
            if left < length or stage == len(self.lengths) - 1:
                return stage, left
            left -= length
        raise AssertionError
