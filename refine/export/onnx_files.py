"""How does a network become an ONNX file? In 8-bit integers: refine/export/int8.py.

The extra ``export`` installs what this needs. The file is checked with ONNX Runtime.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from refine.export.deployment import Deployment, Written
from refine.export.formats import BATCH, quiet
from refine.records.files import written_whole
from refine.stored.description import KEY, as_text

INPUT, OUTPUT = "images", "logits"


class Session(nn.Module):
    """An ONNX file that is called like a network."""

    def __init__(self, path: Path):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes)."""
        given = {INPUT: images.contiguous().numpy()}
        return torch.from_numpy(self._session.run([OUTPUT], given)[0])


def onnx(directory: Path, deployment: Deployment) -> Written:
    """Writes the network in single precision, for batches of any size."""
    path = directory / "model.onnx"
    with written_whole(path) as part:
        part.write_bytes(onnx_bytes(deployment))
    difference = deployment.difference(Session(path)(deployment.images))
    return Written(path.name, path.stat().st_size, difference, "run by ONNX Runtime")


def onnx_bytes(deployment: Deployment) -> bytes:
    """The content of the file in single precision."""
    with quiet():
        program = torch.onnx.export(
            deployment.network,
            (deployment.images[:2],),
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: BATCH},),
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    assert program is not None  # with dynamo=True it never is
    model = program.model_proto
    parts = (model.graph.node, model.graph.value_info, model.graph.initializer, model.graph.input)
    for part in (entry for entries in (*parts, model.graph.output) for entry in entries):
        del part.metadata_props[:]  # source code, with its paths
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=as_text(deployment.description))
    content: bytes = model.SerializeToString()
    return content
