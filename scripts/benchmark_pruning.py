"""How long do scoring, allocating and masking take compared with one torch.kthvalue?

Times a whole cut (magnitude, counts, ranks, masks, zeroing) of a network of VGG-like layers, by
the global and the LAMP allocation, against torch.kthvalue over as many floats: in this process, in
turn, with the same threads; the ratio is that of the medians. Then, on the same weights, the time
that other libraries take to select: torch.nn.utils.prune.global_unstructured and, where it is
installed, Torch-Pruning.

    python scripts/benchmark_pruning.py [--weights 100_000_000] [--rounds 3] [--threads N]
                                        [--ratio 0.3] [--others 100_000_000]

Torch-Pruning removes whole channels, so its step differs: it is timed from the importance to the
list of what is removed, without the removal.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from refine.pruning.allocation import global_, lamp
from refine.pruning.importance import magnitude
from refine.sparsity.masks import Masks
from refine.training.device import describe

TARGET = 1.5
WIDTHS = (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8)  # VGG16's, of its 64 channels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--others", type=int, help="weights for the others, if memory is short; default: the same"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = vgg_of(options.weights)
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"{describe(torch.device('cpu'))}, torch {torch.__version__}, {total:,} weights")

    start = [parameter.detach().clone() for parameter in model.parameters()]
    contestants: dict[str, Callable[[], object]] = {
        "torch.kthvalue": kthvalue_of(total, options.ratio),
        "global": lambda: cut(model, global_, options.ratio),
        "lamp": lambda: cut(model, lamp, options.ratio),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, call in contestants.items():
            times[name].append(timed(call))
            restore(model, start)
    again = Masks(model)
    first = magnitude(model, [])
    again.cut_(again.lowest(first, global_(first, again, options.ratio)))
    del first
    for name, allocate in (("global, second cut", global_), ("lamp, second cut", lamp)):
        times[name] = [
            timed(lambda allocate=allocate: count_and_mark(model, again, allocate, options.ratio))
            for _ in range(options.rounds)
        ]
    report(times)
    print(
        f"peak memory so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB"
    )
    del contestants, start

    size = options.others or options.weights
    if size != options.weights:
        model = vgg_of(size)
        print(f"the others, on {size:,} weights only, to fit into memory:")
    print(f"  {'global_unstructured':20} {timed(lambda: by_torch(model, options.ratio)):7.3f} s")
    by_torch_pruning(vgg_of(size), options.ratio)


def vgg_of(weights: int) -> nn.Module:
    """VGG16's convolutions, without bias, widened to about so many weights, and a linear layer."""
    torch.manual_seed(0)
    plain = sum(9 * a * b for a, b in pairwise(WIDTHS))
    width = max(1, round((weights / plain) ** 0.5))
    channels = [3, *(width * factor for factor in WIDTHS)]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.ReLU()]
    head = nn.Linear(channels[-1], 10, bias=False)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def kthvalue_of(total: int, ratio: float) -> Callable[[], Tensor]:
    floats = torch.randn(total, generator=torch.Generator().manual_seed(0)).abs_()
    return lambda: floats.kthvalue(int(ratio * total)).values


def cut(model: nn.Module, allocate: Callable, ratio: float) -> None:
    """The first cut of a network: everything from the scores to the zeros."""
    masks = Masks(model)
    masks.cut_(count_and_mark(model, masks, allocate, ratio))


def count_and_mark(model: nn.Module, masks: Masks, allocate: Callable, ratio: float) -> dict:
    scores = magnitude(model, [])
    return masks.lowest(scores, allocate(scores, masks, ratio))


@torch.no_grad()
def restore(model: nn.Module, start: list[Tensor]) -> None:
    for parameter, values in zip(model.parameters(), start, strict=True):
        parameter.copy_(values)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def report(times: dict[str, list[float]]) -> None:
    reference = statistics.median(times["torch.kthvalue"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"  {name:20} {median:7.3f} s   {min(values):7.3f} to {max(values):.3f}")
    for name in ("global", "lamp"):
        ratio = statistics.median(times[name]) / reference
        print(f"{name}: {ratio:.2f} times torch.kthvalue (target: at most {TARGET})")


def by_torch(model: nn.Module, ratio: float) -> None:
    layers = [(layer, "weight") for layer in model.modules() if hasattr(layer, "weight")]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=ratio)


def by_torch_pruning(model: nn.Module, ratio: float) -> None:
    try:
        import torch_pruning
    except ImportError:
        print("  Torch-Pruning is not installed")
        return
    images = torch.zeros(1, 3, 4, 4)
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        images,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=head,
    )
    seconds = timed(lambda: list(pruner.step(interactive=True)))
    print(f"  {'Torch-Pruning':20} {seconds:7.3f} s")


if __name__ == "__main__":
    main()
