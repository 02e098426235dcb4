"""How does a network become an ONNX file, in single precision and in 8-bit integers?

The extra ``export`` installs what this needs. Both files are checked with ONNX Runtime.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from refine.datasets.images import Images
from refine.evaluation.accuracy import Score, accuracy
from refine.export.deployment import Deployment, Written
from refine.export.description import KEY, as_text
from refine.export.formats import BATCH, quiet
from refine.records.files import written_whole

INPUT, OUTPUT = "images", "logits"
# Images of 32x32; fewer of larger ones, as the calibration keeps the outputs of every layer.
CALIBRATED = 200
TOGETHER = 25  # images per batch of calibration
JUDGED = 2000  # training images to choose the method by, if there are no validation images
METHODS = ("MinMax", "Percentile")


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
        part.write_bytes(_onnx_bytes(deployment))
    difference = deployment.difference(Session(path)(deployment.images))
    return Written(path.name, path.stat().st_size, difference, "run by ONNX Runtime")


def int8(directory: Path, deployment: Deployment) -> Written:
    """Writes the network in 8-bit integers (QDQ, a scale for each channel). Weights have 7 bits,
    which every processor multiplies exactly. The ranges are calibrated on training images; the
    calibration method is chosen on validation images or on further training images."""
    path = directory / "model.int8.onnx"
    with TemporaryDirectory() as place:
        files = _quantized(Path(place), deployment)
        shown, judged = _judged(deployment)
        wanted = accuracy(deployment.before, deployment.data.plain(judged))
        scores = {
            method: accuracy(Session(file), deployment.data.plain(judged))
            for method, file in files.items()
        }
        chosen = min(scores, key=lambda method: _distance(scores[method], wanted))
        with written_whole(path) as part:
            part.write_bytes(files[chosen].read_bytes())
    session = Session(path)
    return Written(
        path.name,
        path.stat().st_size,
        deployment.difference(session(deployment.images)),
        f"{chosen.lower()} calibration, chosen on {len(judged):,} {shown} images",
        deployment.score(session).accuracy,
    )


def _onnx_bytes(deployment: Deployment) -> bytes:
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


def _quantized(place: Path, deployment: Deployment) -> dict[str, Path]:
    """A file for each calibration method."""
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
        shape_inference,
    )

    whole, prepared = place / "whole.onnx", place / "prepared.onnx"
    whole.write_bytes(_onnx_bytes(deployment))
    files = {method: place / f"{method}.onnx" for method in METHODS}
    with quiet():
        shape_inference.quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        for method, file in files.items():
            quantize_static(
                str(prepared),
                str(file),
                _Reader(deployment),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                # Unsigned, as x86 multiplies unsigned with signed: signed activations took 41 ms
                # where unsigned took 14 and single precision 32 (ResNet-20, 32 images, one core).
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Without VNNI, x86 adds two products of an unsigned and a signed byte in 16 bits,
                # which saturate with weights of 8 bits; of 7 bits they never do: 2 * 255 * 64.
                reduce_range=True,
                calibrate_method=CalibrationMethod[method],
            )
    return files


class _Reader:
    """Gives training images to ONNX Runtime, like its CalibrationDataReader."""

    def __init__(self, deployment: Deployment):
        self._batches = self._all(deployment)

    def _all(self, deployment: Deployment) -> Iterator[dict[str, Any]]:
        chosen = deployment.data.train[: _calibrated(deployment)]
        size = min(TOGETHER, len(chosen))
        for images, _ in deployment.data.plain(chosen[: len(chosen) // size * size]):
            for part in torch.split(images.contiguous(), size):
                if len(part) == size:  # percentiles need batches of one size
                    yield {INPUT: part.numpy()}

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None after the last."""
        return next(self._batches, None)


def _calibrated(deployment: Deployment) -> int:
    """How many training images the calibration uses."""
    _, height, width = deployment.data.image_shape
    return max(16, min(CALIBRATED, CALIBRATED * 32 * 32 // (height * width)))


def _judged(deployment: Deployment) -> tuple[str, Images]:
    """What the images are that the calibration method is chosen on, and the images."""
    data = deployment.data
    if data.validation is not None:
        return "validation", data.validation
    rest = data.train[_calibrated(deployment) :][:JUDGED]
    return "training", rest if len(rest) else data.train[:JUDGED]


def _distance(score: Score, wanted: Score) -> tuple[float, float]:
    """How far a network is from the original: by accuracy, and where that is equal by loss."""
    return abs(score.accuracy - wanted.accuracy), abs(score.loss - wanted.loss)
