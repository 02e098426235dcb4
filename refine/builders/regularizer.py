"""Which penalty does ``regularizer`` describe?"""

from collections.abc import Iterable

from torch import Tensor, nn

from refine.config.instantiate import function
from refine.config.schema import RegularizerConfig
from refine.errors import SettingError
from refine.regularization import Regularizer


def build_regularizer(
    node: RegularizerConfig, model: nn.Module, example: Tensor, protected: Iterable[str]
) -> Regularizer | None:
    """The regularizer of a node, if it names one, for the network's inputs ``example``; layers that
    are ``protected`` are left alone."""
    if node.kind == "none":
        return None
    try:
        regularizer = Regularizer(
            function("regularizer.kind", node.kind, "refine.regularization.penalties"),
            example,
            strength=node.strength,
            growth=node.growth,
            warmup=node.warmup,
            start=node.start,
            stop=node.stop,
            protected=protected,
        )
        regularizer.prepare(model)
    except ValueError as error:
        raise SettingError("regularizer", str(error)) from None
    return regularizer
