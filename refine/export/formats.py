"""Which files can a network leave as, without any other library than torch?

Each format is a function ``(directory, deployment) -> Written`` that writes one file, whole or not
at all, and checks it by reading it again. Those of ONNX are in refine/export/onnx_files.py.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path

import torch

from refine.export.deployment import Deployment, Written
from refine.export.network_file import KEY, SPARSE_ENDING, as_text, load_model, write
from refine.records.files import written_whole

BATCH = torch.export.Dim("batch")


def safetensors(directory: Path, deployment: Deployment) -> Written:
    """All numbers as they are; ``refine.load_model`` reads it."""
    return _tensors(directory / "model.safetensors", deployment, sparse=False)


def sparse(directory: Path, deployment: Deployment) -> Written:
    """The same without its zeros, compressed."""
    return _tensors(directory / f"model{SPARSE_ENDING}", deployment, sparse=True)


def _tensors(path: Path, deployment: Deployment, *, sparse: bool) -> Written:
    write(path, deployment.network, deployment.description, sparse=sparse)
    ours = deployment.description.function is not None
    network = load_model(path, None if ours else deepcopy(deployment.dense))
    with torch.no_grad():
        difference = deployment.difference(network(deployment.images))
    return Written(path.name, path.stat().st_size, difference, "read by refine.load_model")


def torch_export(directory: Path, deployment: Deployment) -> Written:
    """A program of torch.export, for batches of any size, that needs no code of the network's."""
    path = directory / "model.pt2"
    example = torch.zeros_like(deployment.images[:2])  # the file keeps it: none of the data set
    with quiet():
        program = torch.export.export(deployment.network, (example,), dynamic_shapes=({0: BATCH},))
        for module in program.graph_module.modules():
            for node in getattr(getattr(module, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)  # lines and places of source code
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={KEY: as_text(deployment.description)})
        with written_whole(path) as part:
            part.write_bytes(content.getvalue())
        network = torch.export.load(path).module()
    with torch.no_grad():
        difference = deployment.difference(network(deployment.images))
    return Written(path.name, path.stat().st_size, difference, "read by torch.export.load")


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters tell of their own affairs on every channel; what fails they raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
