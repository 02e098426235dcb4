"""How does a network become 8-bit integers, and which layers must not?

The extra ``export`` installs what this needs. The file is run by ONNX Runtime.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from refine.datasets.images import Images
from refine.evaluation.accuracy import Score, accuracy
from refine.export.deployment import Deployment, Written
from refine.export.formats import quiet
from refine.export.onnx_files import INPUT, Session, onnx_bytes
from refine.records.files import written_whole

# Images of 32x32; fewer of larger ones, as the calibration keeps the outputs of every layer.
CALIBRATED = 200
TOGETHER = 25  # images per batch of calibration
CHANCE = 4.5  # images that rounding alone may turn over in a small set
JUDGED = 2000  # training images to choose by, if there are no validation images
METHODS = ("MinMax", "Percentile")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # operations with weights


def int8(directory: Path, deployment: Deployment) -> Written:
    """Writes the network in 8-bit integers (QDQ, a scale for each channel). Weights have 7 bits,
    which every processor multiplies exactly. The ranges are calibrated on training images.

    The calibration method is chosen on validation images or on further training images. Where the
    file is less accurate on these than the network by more than ``deployment.tolerance``, the
    layers that cost most stay in single precision, as few as are needed."""
    path = directory / "model.int8.onnx"
    with TemporaryDirectory() as place:
        shown, judged = _judged(deployment)
        trial = _Trials(Path(place), deployment, judged)
        scores = {method: trial.score(method, ()) for method in METHODS}
        chosen = min(scores, key=lambda method: _distance(scores[method], trial.wanted))
        kept = trial.kept(chosen) if trial.lost(scores[chosen]) else []
        with written_whole(path) as part:
            part.write_bytes(trial.file(chosen, kept).read_bytes())
        how = f"{chosen.lower()} calibration, chosen on {len(judged):,} {shown} images"
        if kept:
            names = ", ".join(trial.layers[node] for node in kept)
            how += (
                f"; single precision for {names}: in 8 bits too, the accuracy there is "
                f"{scores[chosen].accuracy:.2%} instead of {trial.wanted.accuracy:.2%}"
            )
    session = Session(path)
    return Written(
        path.name,
        path.stat().st_size,
        deployment.difference(session(deployment.images)),
        how,
        deployment.score(session).accuracy,
    )


class _Trials:
    """Files in which some layers have 8 bits, and how good they are on the ``judged`` images.

    wanted: the score of the network itself. layers: names of what can stay in single precision, by
    node of the graph.
    """

    def __init__(self, place: Path, deployment: Deployment, judged: Images):
        from onnxruntime.quantization import shape_inference

        self._place, self._deployment, self._judged = place, deployment, judged
        self._scores: dict[tuple[str, ...], Score] = {}
        whole, self._prepared = place / "whole.onnx", place / "prepared.onnx"
        whole.write_bytes(onnx_bytes(deployment))
        with quiet():
            shape_inference.quant_pre_process(
                str(whole), str(self._prepared), skip_symbolic_shape=True
            )
        self.wanted = accuracy(deployment.before, deployment.data.plain(judged))
        self.layers = _layers(self._prepared)

    def lost(self, score: Score) -> bool:
        """Whether a score is below the network's by more than the tolerance, and by more images
        than chance takes."""
        images = len(self._judged) * (self.wanted.accuracy - score.accuracy)
        return images > max(CHANCE, self._deployment.tolerance * len(self._judged))

    def kept(self, method: str) -> list[str]:
        """The nodes to leave in single precision: in the order of how much the loss falls when one
        of them alone is left, as many as bring the accuracy back to the tolerance."""
        alone = {node: self.score(method, (node,)).loss for node in self.layers}
        order = sorted(alone, key=alone.__getitem__)
        low, high = 1, len(order)
        while low < high:
            middle = (low + high) // 2
            if self.lost(self.score(method, order[:middle])):
                low = middle + 1
            else:
                high = middle
        return order[:low]

    def score(self, method: str, kept: Sequence[str]) -> Score:
        """Accuracy and loss of the file in which the nodes ``kept`` have single precision."""
        key = (method, *sorted(kept))
        if key not in self._scores:
            session = Session(self.file(method, kept))
            self._scores[key] = accuracy(session, self._deployment.data.plain(self._judged))
        return self._scores[key]

    def file(self, method: str, kept: Sequence[str]) -> Path:
        """That file; each call writes it anew."""
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        file = self._place / "quantized.onnx"
        with quiet():
            quantize_static(
                str(self._prepared),
                str(file),
                _Reader(self._deployment),
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
                nodes_to_exclude=list(kept),
            )
        return file


def _layers(path: Path) -> dict[str, str]:
    """The nodes of an ONNX file that have weights, each with its layer's name."""
    import onnx

    graph = onnx.load(str(path)).graph
    weights = {entry.name for entry in graph.initializer}
    found = {}
    for node in graph.node:
        own = [name for name in node.input[1:2] if name in weights]
        if node.op_type in LAYERS and own:
            ended = own[0].removesuffix("_bias").removesuffix(".weight")
            found[node.name] = ended if own[0] != ended else node.name
    return found


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
