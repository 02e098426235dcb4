"""What is measured for each network in each form?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from refine.bench.candidates import Candidate
from refine.bench.forms import Form
from refine.bench.rows import BenchRow
from refine.bench.runtimes import Predict
from refine.evaluation import cost
from refine.evaluation.latency import interleaved, median, p95
from refine.evaluation.peak_memory import peak_bytes


@dataclass(frozen=True)
class MeasureOptions:
    """How to measure. One of these is None: repeats, the rounds at each batch size; seconds, how
    long all rounds of a batch size may take."""

    device: torch.device
    batches: tuple[int, ...]
    repeats: int | None
    seconds: float | None

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Prepared:
    """A candidate in a form, and the measurements that do not depend on the batch size."""

    candidate: Candidate
    form: Form
    predict: Predict
    accuracy: float | None
    difference: float


class OnCpu(nn.Module):
    """Makes a form a network that takes images on the CPU and returns logits on the CPU."""

    def __init__(self, predict: Predict, form: Form, device: torch.device):
        super().__init__()
        self._predict, self._form, self._device = predict, form, device

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes)."""
        return self._predict(self._form.laid_out(images).to(self._device)).cpu()


def prepare(
    candidates: Sequence[Candidate],
    forms: Sequence[Form],
    options: MeasureOptions,
    show_progress: Callable[[str], None],
) -> tuple[list[Prepared], dict[str, str]]:
    """Every candidate in every form that is available, and why the others are not."""
    prepared: list[Prepared] = []
    skipped = {form.name: reason for form in forms if (reason := form.lacks())}
    for form in forms:
        for candidate in candidates if form.name not in skipped else ():
            show_progress(f"{candidate.run}: {candidate.role} in the form {form.name}")
            try:
                prepared.append(_prepared(candidate, form, options.device))
            except Exception as error:  # compilers, libraries and networks raise many types
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                skipped[f"{form.name} ({candidate.role} of {candidate.run})"] = reason[:200]
    return prepared, skipped


@torch.no_grad()  # not inference_mode: its images could be used nowhere else, and they are kept
def _prepared(candidate: Candidate, form: Form, device: torch.device) -> Prepared:
    deployment = candidate.deployment
    predict = form.prepare(deployment)
    network = OnCpu(predict, form, device)
    difference = deployment.difference(network(deployment.images))
    accuracy = deployment.score(network).accuracy if candidate.trained else None
    return Prepared(candidate, form, predict, accuracy, difference)


def measured(
    prepared: Sequence[Prepared], options: MeasureOptions, show_progress: Callable[[str], None]
) -> list[BenchRow]:
    """A row for each of them at each batch size; in each round every one is called once."""
    rows: list[BenchRow] = []
    by_key = {_key(one.candidate, one.form): one for one in prepared}
    for batch in options.batches:
        show_progress(f"timing {len(prepared)} programs with batches of {batch}")
        calls = {key: _call(one, batch, options) for key, one in by_key.items()}
        with torch.inference_mode():
            times = interleaved(
                calls,
                options.repeats,
                seconds=options.seconds,
                synchronize=options.synchronize,
            )
        candidates = {id(one.candidate): one.candidate for one in prepared}
        peaks = {key: _peak(c, batch, options.device) for key, c in candidates.items()}
        for key, one in by_key.items():
            candidate = one.candidate
            dense = times.get(_key(candidate.dense or candidate, one.form))
            speedup = median(dense) / median(times[key]) if dense else None
            peak = peaks[id(candidate)]
            rows.append(_row(one, times[key], speedup, batch, peak, options.device))
    return rows


def _key(candidate: Candidate, form: Form) -> str:
    return f"{candidate.run}/{candidate.role}/{form.name}"


def _call(one: Prepared, batch: int, options: MeasureOptions) -> Callable[[], Tensor]:
    images = _images(one.candidate, batch)
    return partial(one.predict, one.form.laid_out(images).to(options.device))


def _images(candidate: Candidate, batch: int) -> Tensor:
    """``batch`` real test images; after the last one the first comes again."""
    images = candidate.deployment.images
    return images[torch.arange(batch) % len(images)]


def _peak(candidate: Candidate, batch: int, device: torch.device) -> int:
    network = candidate.network.to(device)
    try:
        return peak_bytes(network, _images(candidate, batch).to(device))
    finally:
        network.cpu()


def _row(
    one: Prepared,
    seconds: list[float],
    speedup: float | None,
    batch: int,
    peak: int,
    device: torch.device,
) -> BenchRow:
    candidate, network = one.candidate, one.candidate.network
    middle = median(seconds)
    return BenchRow(
        run=candidate.run,
        contestant=candidate.role,
        form=one.form.name,
        precision=one.form.precision,
        device=str(device),
        threads=torch.get_num_threads(),
        batch=batch,
        median_ms=1e3 * middle,
        fastest_ms=1e3 * min(seconds),
        p95_ms=1e3 * p95(seconds),
        images_per_second=batch / middle,
        calls=len(seconds),
        speedup=speedup,
        promised_speedup=candidate.promised_speedup,
        macs=candidate.macs,
        parameters=cost.parameters(network),
        nonzero_parameters=cost.nonzero(network),
        file_bytes=candidate.file_bytes,
        memory_bytes=cost.bytes_of(network),
        peak_bytes=peak,
        accuracy=one.accuracy,
        test_images=len(candidate.deployment.data.test) if candidate.trained else None,
        difference=one.difference,
    )
