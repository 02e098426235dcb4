"""In which forms can a network be run?

A form makes of a network a function that takes a batch of images of any size and returns logits.
Images are fp32 in every form: where a form computes in another precision, its time includes the
conversion.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor, nn

from refine.bench.runtimes import Files, Predict, onnxruntime, openvino
from refine.export.deployment import Deployment
from refine.export.folding import folded
from refine.export.formats import BATCH, quiet

INSTALL = "pip install 'runtime-refinement[bench]'"


@dataclass(frozen=True)
class Form:
    """``prepare``: makes the function that runs the network; its exception says why it cannot.
    ``needs``: the packages for it. ``channels_last``: whether it is fastest with images in memory
    pixel after pixel (NHWC)."""

    name: str
    precision: str
    prepare: Callable[[Deployment], Predict]
    needs: tuple[str, ...] = ()
    channels_last: bool = True

    def lacks(self) -> str | None:
        """Why it is not available, and what would help; None if it is."""
        if missing := [name for name in self.needs if find_spec(name) is None]:
            return f"{' and '.join(missing)} not installed: {INSTALL}"
        return None

    def laid_out(self, images: Tensor) -> Tensor:
        """``images`` (N, C, H, W) in the memory layout that is fastest for it."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout)


def forms(device: torch.device, place: Path) -> dict[str, Form]:
    """All forms on ``device``, by name; their temporary files are written to ``place``."""

    def eager(deployment: Deployment) -> Predict:
        return _moved(deployment.network, device, torch.float32)

    def without_norms(deployment: Deployment) -> Predict:
        return _moved(folded(deployment.network, deployment.images[:2]).network, device)

    def half(dtype: torch.dtype) -> Callable[[Deployment], Predict]:
        def prepare(deployment: Deployment) -> Predict:
            network = _moved(deployment.network, device, dtype)
            return lambda images: network(images.to(dtype)).float()

        return prepare

    def compiled(dtype: torch.dtype) -> Callable[[Deployment], Predict]:
        def prepare(deployment: Deployment) -> Predict:
            network = _moved(deployment.network, device, dtype)
            example = deployment.images[:2].to(device, dtype)
            program = _compiled(network, example, Path(mkdtemp(dir=place)))
            return lambda images: program(images.to(dtype)).float()

        return prepare

    fp32, bf16, fp16 = torch.float32, torch.bfloat16, torch.float16
    found = [
        Form("eager", "fp32", eager),
        Form("folded", "fp32", without_norms),
        Form("compiled", "fp32", compiled(fp32)),
    ]
    if device.type == "cpu":
        files, threads = Files(place), torch.get_num_threads()
        ort, vino = onnxruntime(files, threads), openvino(files, threads)
        base = ("onnx", "onnxscript", "onnxruntime")
        found += [
            Form("onnxruntime", "fp32", ort.single, base, channels_last=False),
            Form("openvino", "fp32", vino.single, (*base, "openvino"), channels_last=False),
            Form("onnxruntime-int8", "int8", ort.int8, base, channels_last=False),
            Form("openvino-int8", "int8", vino.int8, (*base, "openvino"), channels_last=False),
        ]
    found += [
        Form("eager-bf16", "bf16", half(bf16)),
        Form("compiled-bf16", "bf16", compiled(bf16)),
    ]
    if device.type == "cuda":
        found += [
            Form("eager-fp16", "fp16", half(fp16)),
            Form("compiled-fp16", "fp16", compiled(fp16)),
        ]
    return {form.name: form for form in found}


def _moved(model: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    return deepcopy(model).to(device, dtype).to(memory_format=torch.channels_last).eval()


def _compiled(network: nn.Module, example: Tensor, place: Path) -> Predict:
    """A program of torch.export, compiled ahead of time by inductor. It is at least as fast as
    torch.compile, and one compilation is enough for every batch size, where that needs two."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    example = example.contiguous(memory_format=torch.channels_last)
    with quiet(), torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: BATCH},))
        path = aoti_compile_and_package(
            program,
            package_path=str(place / "model.pt2"),
            inductor_configs={"freezing": True},  # weights become constants, norms are folded
        )
        return aoti_load_package(path)
