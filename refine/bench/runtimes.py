"""How does a network answer in ONNX Runtime and in OpenVINO?

Both read the same files of ONNX, those that refine-export writes, with as many threads as PyTorch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refine.export import onnx_files
from refine.export.deployment import Deployment, Written

Answer = Callable[[Tensor], Tensor]
Write = Callable[[Path, Deployment], Written]


class Runtime(NamedTuple):
    """A program's two ways to run a network: in single precision, and in 8-bit integers, calibrated
    on training images."""

    single: Callable[[Deployment], Answer]
    int8: Callable[[Deployment], Answer]


class Files:
    """Files of ONNX in ``place``: each network's is written once in each precision."""

    def __init__(self, place: Path):
        self._place = place
        self._written: dict[tuple[int, Write], Path] = {}
        self._held: list[Deployment] = []  # an id is a network's for as long as that lives

    def of(self, deployment: Deployment, write: Write) -> Path:
        """The file of a network that ``write`` makes."""
        key = id(deployment.network), write
        if key not in self._written:
            directory = self._place / f"onnx-{len(self._written)}"
            directory.mkdir()
            self._written[key] = directory / write(directory, deployment).file
            self._held.append(deployment)
        return self._written[key]


def onnxruntime(files: Files, threads: int) -> Runtime:
    """ONNX Runtime on the CPU."""

    def of(path: Path) -> Answer:
        import onnxruntime as library

        options = library.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Its threads would go on spinning on the cores of whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def answer(images: Tensor) -> Tensor:
            given = {onnx_files.INPUT: images.contiguous().numpy()}
            return torch.from_numpy(session.run([onnx_files.OUTPUT], given)[0])

        return answer

    return _runtime(files, of)


def openvino(files: Files, threads: int) -> Runtime:
    """OpenVINO on the CPU, compiled for the size of batch that it gets."""

    def of(path: Path) -> Answer:
        import openvino as library

        core, requests = library.Core(), {}
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # else it takes bf16 where the processor has it
            "ENABLE_CPU_PINNING": False,  # no other program here keeps a core for itself
        }

        def request(shape: tuple[int, ...]) -> Any:
            model = core.read_model(str(path))
            model.reshape(list(shape))
            return core.compile_model(model, "CPU", settings).create_infer_request()

        def answer(images: Tensor) -> Tensor:
            shape = tuple(images.shape)
            if shape not in requests:
                requests[shape] = request(shape)
            given = images.contiguous().numpy()
            return torch.from_numpy(requests[shape].infer([given], share_inputs=True)[0].copy())

        return answer

    return _runtime(files, of)


def _runtime(files: Files, of: Callable[[Path], Answer]) -> Runtime:
    return Runtime(
        lambda deployment: of(files.of(deployment, onnx_files.onnx)),
        lambda deployment: of(files.of(deployment, onnx_files.int8)),
    )
