"""How is a network run by ONNX Runtime and by OpenVINO?

Both read the ONNX files that refine-export writes, and use as many threads as PyTorch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refine.export import int8, onnx_files
from refine.export.deployment import Deployment, Written

Predict = Callable[[Tensor], Tensor]  # images (N, C, H, W) to logits (N, classes)
Write = Callable[[Path, Deployment], Written]


class Runtime(NamedTuple):
    """The two ways in which a program runs a network: in single precision, and in 8-bit integers,
    calibrated on training images."""

    single: Callable[[Deployment], Predict]
    int8: Callable[[Deployment], Predict]


class Files:
    """ONNX files in ``place``: for each network one in each precision, written only once."""

    def __init__(self, place: Path):
        self._place = place
        self._written: dict[tuple[int, Write], Path] = {}
        self._held: list[Deployment] = []  # keeps networks alive: an id is unique only that long

    def of(self, deployment: Deployment, write: Write) -> Path:
        """The file of a network that ``write`` writes."""
        key = id(deployment.network), write
        if key not in self._written:
            directory = self._place / f"onnx-{len(self._written)}"
            directory.mkdir()
            self._written[key] = directory / write(directory, deployment).file
            self._held.append(deployment)
        return self._written[key]


def onnxruntime(files: Files, threads: int) -> Runtime:
    """ONNX Runtime on the CPU."""

    def of(path: Path) -> Predict:
        import onnxruntime as library

        options = library.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Else its threads would keep spinning on the cores while others are measured.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def predict(images: Tensor) -> Tensor:
            given = {onnx_files.INPUT: images.contiguous().numpy()}
            return torch.from_numpy(session.run([onnx_files.OUTPUT], given)[0])

        return predict

    return _runtime(files, of)


def openvino(files: Files, threads: int) -> Runtime:
    """OpenVINO on the CPU, compiled for each batch size that occurs."""

    def of(path: Path) -> Predict:
        import openvino as library

        core, requests = library.Core(), {}
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # else it uses bf16 where the processor supports it
            "ENABLE_CPU_PINNING": False,  # the other programs do not pin their threads either
        }

        def request(shape: tuple[int, ...]) -> Any:
            model = core.read_model(str(path))
            model.reshape(list(shape))
            return core.compile_model(model, "CPU", settings).create_infer_request()

        def predict(images: Tensor) -> Tensor:
            shape = tuple(images.shape)
            if shape not in requests:
                requests[shape] = request(shape)
            given = images.contiguous().numpy()
            return torch.from_numpy(requests[shape].infer([given], share_inputs=True)[0].copy())

        return predict

    return _runtime(files, of)


def _runtime(files: Files, of: Callable[[Path], Predict]) -> Runtime:
    return Runtime(
        lambda deployment: of(files.of(deployment, onnx_files.onnx)),
        lambda deployment: of(files.of(deployment, int8.int8)),
    )
