"""Which files can be written of a network with no other library than torch?

Each format is a function ``(directory, deployment) -> Written`` that writes one file, whole or not
at all, and checks it by reading it again. ONNX files are in refine/export/onnx_files.py.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch

from refine.export.deployment import Deployment, Written
from refine.records.files import written_whole
from refine.stored.description import KEY, as_text
from refine.stored.network_file import SPARSE_ENDING, load_model, write

BATCH = torch.export.Dim("batch")


def safetensors(directory: Path, deployment: Deployment) -> Written:
    """Writes all tensors as they are; ``refine.load_model`` reads the file."""
    return _tensors(directory / "model.safetensors", deployment, sparse=False)


def sparse(directory: Path, deployment: Deployment) -> Written:
    """Writes the tensors without their zeros, compressed; ``refine.load_model`` reads the file."""
    return _tensors(directory / f"model{SPARSE_ENDING}", deployment, sparse=True)


def _tensors(path: Path, deployment: Deployment, *, sparse: bool) -> Written:
    write(path, deployment.network, deployment.description, sparse=sparse)
    network = load_model(path, deployment.of_other_code())
    with torch.no_grad():
        difference = deployment.difference(network(deployment.images))
    return Written(path.name, path.stat().st_size, difference, "read by refine.load_model")


def torch_export(directory: Path, deployment: Deployment) -> Written:
    """Writes a program of torch.export, for batches of any size, that needs none of the network's
    code."""
    path = directory / "model.pt2"
    example = torch.zeros_like(deployment.images[:2])  # no test images: the file keeps them
    with quiet():
        program = torch.export.export(deployment.network, (example,), dynamic_shapes=({0: BATCH},))
        for module in program.graph_module.modules():
            for node in getattr(getattr(module, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)  # source code, with its paths
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
    """Silences the log, the warnings and the output of exporters; their errors are exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
