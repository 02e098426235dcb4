"""Which networks are compared?

For each run they are the dense network, as it was built before any cut, the refined one, as the run
left it, and the exported one, if refine-export has written it. An untrained network is as fast as a
trained one, and zeros are as slow as other numbers: only shapes and forms matter for speed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from refine.bench.rows import DENSE, EXPORTED, REFINED
from refine.datasets.prepare import Data, balanced
from refine.errors import NetworkError
from refine.evaluation import cost
from refine.export.deployment import Deployment
from refine.export.trained import Trained
from refine.records.rows import MODEL_FILE
from refine.stored.description import Description
from refine.stored.network_file import SPARSE_ENDING, load_model, read

# INT8 is calibrated on some of these; its calibration method is chosen on the others.
TRAINING_IMAGES = 700
EXPORTS = (f"export/{MODEL_FILE}", f"export/model{SPARSE_ENDING}")


@dataclass(frozen=True)
class Candidate:
    """A network to measure.

    run: the name of its run's directory. role: dense, refined or exported. file_bytes: of its file,
    or of the file that it would have. trained: without training its accuracy has no meaning.
    dense: the network it is compared with; None if it is the dense one.
    """

    run: str
    role: str
    deployment: Deployment
    file_bytes: int
    trained: bool
    dense: "Candidate | None"

    @property
    def network(self) -> nn.Module:
        """The network on the CPU, in evaluation mode."""
        return self.deployment.network

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return cost.macs(self.network, self.deployment.data.image_shape)

    @property
    def promised_speedup(self) -> float:
        """MACs of the dense network, divided by its own."""
        return (self.dense or self).macs / self.macs


def of_runs(
    directories: Sequence[Path],
    dense: Path | None,
    root: str | None,
    test_images: int,
    show_progress: Callable[[str], None] = lambda text: None,
) -> list[list[Candidate]]:
    """The candidates of each run, the dense one first.

    dense: the run of a dense network that takes the place of the untrained ones; root: where the
    data sets are, if they have moved; test_images: how many accuracy is measured on, 0 for all.
    NetworkError if a run has left no network, or ``dense`` has other images or classes.
    """
    names = _names(directories)
    dense_run = None if dense is None else Trained(dense, root)
    found = []
    for directory, name in zip(directories, names, strict=True):
        show_progress(f"reading {directory}")
        trained = Trained(directory, root)
        data = _subset(trained.data, test_images)
        refined = trained.network()
        if dense_run is None:
            first = _candidate(name, DENSE, trained.untrained(), data, trained=False)
        else:
            _check_data(dense_run, trained)
            own = _subset(dense_run.data, test_images)
            first = _candidate(
                name, DENSE, dense_run.network(), own, dense_run.directory / MODEL_FILE
            )
        file = directory / MODEL_FILE
        candidates = [first, _candidate(name, REFINED, refined, data, file, dense=first)]
        files = [directory / path for path in EXPORTS if (directory / path).is_file()]
        if files:
            file = min(files, key=lambda path: path.stat().st_size)
            network = _exported(file, trained)
            candidates.append(_candidate(name, EXPORTED, network, data, file, dense=first))
        found.append(candidates)
    return found


def _candidate(
    run: str,
    role: str,
    network: nn.Module,
    data: Data,
    file: Path | None = None,
    *,
    trained: bool = True,
    dense: Candidate | None = None,
) -> Candidate:
    network = network.to(memory_format=torch.contiguous_format).eval()
    if file is None:
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        size = len(safetensors.torch.save(state))
    else:
        size = file.stat().st_size
    deployment = Deployment(network, network, network, Description(), data)
    return Candidate(run, role, deployment, size, trained, dense)


def _exported(path: Path, trained: Trained) -> nn.Module:
    _, description = read(path)
    known = description is not None and description.function is not None
    return load_model(path, None if known else trained.untrained())


def _subset(data: Data, test_images: int) -> Data:
    """The data with fewer images, so that measuring is quick; they are balanced by class and drawn
    with a fixed seed."""
    draw = torch.Generator().manual_seed(0)
    tested = min(test_images or len(data.test), len(data.test))
    test = data.test[balanced(data.test.labels, tested, draw)]
    training = min(TRAINING_IMAGES, len(data.train))
    train = data.train[torch.randperm(len(data.train), generator=draw)[:training]]
    return replace(data, train=train, validation=None, test=test)


def _check_data(dense_run: Trained, trained: Trained) -> None:
    for what in ("image_shape", "classes"):
        theirs, own = getattr(dense_run.data, what), getattr(trained.data, what)
        if list(theirs) != list(own):
            raise NetworkError(
                f"--dense: {dense_run.directory} has the {what.replace('_', ' ')} {theirs!s:.60}, "
                f"and {trained.directory} has {own!s:.60}; name a run on the same data"
            )


def _names(directories: Sequence[Path]) -> list[str]:
    """The directories' names, each with as many parent directories as make them all different."""
    parts = [directory.resolve().parts for directory in directories]
    by_seed = any(part[-1].startswith("seed-") for part in parts)
    first = 2 if by_seed else 1  # seed-1 alone says nothing
    for depth in range(first, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
