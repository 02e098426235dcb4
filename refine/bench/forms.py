"""In which form does a network answer?

A form is a function ``(network) -> answer`` that makes of a network, with its images, something
that takes a batch of any size and returns logits. Images are fp32 in every form: where a form
computes in less, the conversion is part of its time.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor, nn

from refine.bench.runtimes import Files, onnxruntime, openvino
from refine.export.deployment import Deployment
from refine.export.folding import folded
from refine.export.formats import BATCH, quiet

INSTALL = "pip install 'runtime-refinement[bench]'"
Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """``prepare``: makes the answer; what it raises says why it cannot. needs: packages that it
    takes. channels_last: whether images lie in memory pixel after pixel, as is best for it."""

    name: str
    precision: str
    prepare: Callable[[Deployment], Answer]
    needs: tuple[str, ...] = ()
    channels_last: bool = True

    def lacks(self) -> str | None:
        """Why it cannot be had here, and what would help; None if it can."""
        if missing := [name for name in self.needs if find_spec(name) is None]:
            return f"{' and '.join(missing)} not installed: {INSTALL}"
        return None

    def laid_out(self, images: Tensor) -> Tensor:
        """``images`` (N, C, H, W) as they lie best for it."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout)


def forms(device: torch.device, place: Path) -> dict[str, Form]:
    """All that there are on ``device``, by name; files of theirs are written to ``place``."""

    def eager(deployment: Deployment) -> Answer:
        return _moved(deployment.network, device, torch.float32)

    def without_norms(deployment: Deployment) -> Answer:
        return _moved(folded(deployment.network, deployment.images[:2]).network, device)

    def half(dtype: torch.dtype) -> Callable[[Deployment], Answer]:
        def prepare(deployment: Deployment) -> Answer:
            network = _moved(deployment.network, device, dtype)
            return lambda images: network(images.to(dtype)).float()

        return prepare

    def compiled(dtype: torch.dtype) -> Callable[[Deployment], Answer]:
        def prepare(deployment: Deployment) -> Answer:
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
        plain = {"channels_last": False}
        found += [
            Form("onnxruntime", "fp32", ort.single, base, **plain),
            Form("openvino", "fp32", vino.single, (*base, "openvino"), **plain),
            Form("onnxruntime-int8", "int8", ort.int8, base, **plain),
            Form("openvino-int8", "int8", vino.int8, (*base, "openvino"), **plain),
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
    return deepcopy(model).to(device, dtype, memory_format=torch.channels_last).eval()


def _compiled(network: nn.Module, example: Tensor, place: Path) -> Answer:
    """A program of torch.export, compiled ahead of time by inductor: as fast as torch.compile or
    faster, and one compilation for every batch size, where that needs two."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    example = example.contiguous(memory_format=torch.channels_last)
    with quiet(), torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: BATCH},))
        path = aoti_compile_and_package(
            program,
            package_path=str(place / "model.pt2"),
            inductor_configs={"freezing": True},  # weights are constants: norms are folded
        )
        return aoti_load_package(path)
