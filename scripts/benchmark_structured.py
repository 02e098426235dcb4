"""How long do cuts and penalties of channels take compared with torch-pruning itself?

    python scripts/benchmark_structured.py [rounds=5] [model=resnet56] [steps=400]

Cuts a network to half its multiply-accumulates by group norms, global, in up to 400 steps: our
cycle, and torch-pruning's own pruner with its own operation counter after every step, as its
published script does. Then the gradient of the group-norm penalty of one step, both ways. All in
turn in one process; prints medians and ratios.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
import torch_pruning as tp
from seeds import asked

from refine import RuntimeRefinement, models
from refine.channels.criteria import group_norm
from refine.channels.plan import Structured
from refine.evaluation.cost import macs
from refine.regularization import Regularizer, penalties
from refine.replay import Replay

SHAPE = (3, 32, 32)


def main(arguments: list[str]) -> int:
    options, rest = asked(arguments, rounds="5", model="resnet56", steps="400")
    if rest:
        raise SystemExit(f"there is no option {rest[0]!r}; rounds, model and steps are")
    make, steps = getattr(models, options["model"]), int(options["steps"])
    contestants = {"cut, ours": ours, "cut, torch-pruning": theirs}
    seconds = {name: [] for name in contestants}
    left = {}
    for _ in range(int(options["rounds"])):
        for name, cut in contestants.items():
            model = make()
            started = time.perf_counter()
            cut(model, steps)
            seconds[name].append(time.perf_counter() - started)
            left[name] = macs(make(), SHAPE) / macs(model, SHAPE)
    for name, own in seconds.items():
        print(f"{name:32} {1e3 * median(own):9.1f} ms, {left[name]:.3f}x fewer MACs")
    _ratio(seconds)
    model = make()
    penalties = penalty(model)
    seconds = {name: [] for name in penalties}
    for _ in range(5 * int(options["rounds"])):
        for name, add in penalties.items():
            started = time.perf_counter()
            add()
            seconds[name].append(time.perf_counter() - started)
    for name, own in seconds.items():
        print(f"{name:32} {1e3 * median(own):9.2f} ms")
    _ratio(seconds)
    return 0


def _ratio(seconds: dict[str, list[float]]) -> None:
    own, other = (median(values) for values in seconds.values())
    print(f"{'torch-pruning / ours':32} {other / own:9.2f}")


def ours(model: torch.nn.Module, steps: int) -> None:
    refinement = RuntimeRefinement(
        model,
        Structured(
            group_norm,
            unit="macs",
            steps=steps,
            downscale_factor=1.0,
            example=torch.randn(1, *SHAPE),
        ),
        replay=Replay(steps=0),
    )
    refinement.refinement_cycle(None, 0.5)


def theirs(model: torch.nn.Module, steps: int) -> None:
    example = torch.randn(1, *SHAPE)
    pruner = tp.pruner.GroupNormPruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2, normalizer="max"),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=steps,
        ignored_layers=[list(model.modules())[-1]],
    )
    base, _ = tp.utils.count_ops_and_params(model, example)
    now = base
    while now > base / 2:
        pruner.step()
        now, _ = tp.utils.count_ops_and_params(model, example)


def penalty(model: torch.nn.Module) -> dict[str, Callable[[], None]]:
    """Adds one step's gradient of the group-norm penalty to the present gradients."""
    example = torch.randn(2, *SHAPE)
    model(example).sum().backward()
    regularizer = Regularizer(penalties.group_norm, example)
    regularizer.begin_epoch(1)
    pruner = tp.pruner.GroupNormPruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2, normalizer="max"),
        ignored_layers=[list(model.modules())[-1]],
    )
    return {
        "penalty, ours": lambda: regularizer.add_gradients_(model),
        "penalty, torch-pruning": lambda: pruner.regularize(model),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
