"""What is measured of each network in each form?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from refine.bench.candidates import Contestant
from refine.bench.forms import Answer, Form
from refine.bench.rows import BenchRow
from refine.evaluation import cost
from refine.evaluation.latency import interleaved, median, p95
from refine.evaluation.memory import peak_bytes


@dataclass(frozen=True)
class Measuring:
    """What is asked. repeats: rounds at each batch size; or seconds, as long as they may take."""

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
    """A contestant in a form, and what of it does not depend on the batch size."""

    contestant: Contestant
    form: Form
    answer: Answer
    accuracy: float | None
    difference: float


class Answering(nn.Module):
    """What ``answer`` says of images that lie on the CPU, as a network of the CPU says it."""

    def __init__(self, answer: Answer, form: Form, device: torch.device):
        super().__init__()
        self._answer, self._form, self._device = answer, form, device

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, classes)."""
        return self._answer(self._form.laid_out(images).to(self._device)).cpu()


def prepare(
    contestants: Sequence[Contestant],
    forms: Sequence[Form],
    measuring: Measuring,
    tell: Callable[[str], None],
) -> tuple[list[Prepared], dict[str, str]]:
    """Every contestant in every form that can be had, and why the others cannot."""
    prepared: list[Prepared] = []
    skipped = {form.name: reason for form in forms if (reason := form.lacks())}
    for form in forms:
        for contestant in contestants if form.name not in skipped else ():
            tell(f"{contestant.run}: {contestant.role} in the form {form.name}")
            try:
                prepared.append(_prepared(contestant, form, measuring.device))
            except Exception as error:  # compilers, libraries and networks refuse in many ways
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                skipped[f"{form.name} ({contestant.role} of {contestant.run})"] = reason[:200]
    return prepared, skipped


@torch.no_grad()  # inference mode would be passed on to the images that the deployment keeps
def _prepared(contestant: Contestant, form: Form, device: torch.device) -> Prepared:
    deployment = contestant.deployment
    answer = form.prepare(deployment)
    answering = Answering(answer, form, device)
    difference = deployment.difference(answering(deployment.images))
    accuracy = deployment.score(answering).accuracy if contestant.trained else None
    return Prepared(contestant, form, answer, accuracy, difference)


def measured(
    prepared: Sequence[Prepared], measuring: Measuring, tell: Callable[[str], None]
) -> list[BenchRow]:
    """A row for each of them at each batch size; all take turns."""
    rows: list[BenchRow] = []
    by_key = {_key(one.contestant, one.form): one for one in prepared}
    for batch in measuring.batches:
        tell(f"timing {len(prepared)} programs with batches of {batch}")
        calls = {key: _call(one, batch, measuring) for key, one in by_key.items()}
        with torch.inference_mode():
            times = interleaved(
                calls,
                measuring.repeats,
                seconds=measuring.seconds,
                synchronize=measuring.synchronize,
            )
        contestants = {id(one.contestant): one.contestant for one in prepared}
        peaks = {of: _peak(c, batch, measuring.device) for of, c in contestants.items()}
        for key, one in by_key.items():
            contestant = one.contestant
            dense = times.get(_key(contestant.dense or contestant, one.form))
            speedup = median(dense) / median(times[key]) if dense else None
            peak = peaks[id(contestant)]
            rows.append(_row(one, times[key], speedup, batch, peak, measuring.device))
    return rows


def _key(contestant: Contestant, form: Form) -> str:
    return f"{contestant.run}/{contestant.role}/{form.name}"


def _call(one: Prepared, batch: int, measuring: Measuring) -> Callable[[], Tensor]:
    images = _images(one.contestant, batch)
    return partial(one.answer, one.form.laid_out(images).to(measuring.device))


def _images(contestant: Contestant, batch: int) -> Tensor:
    """As many of the real test images, from the first again after the last."""
    images = contestant.deployment.images
    return images[torch.arange(batch) % len(images)]


def _peak(contestant: Contestant, batch: int, device: torch.device) -> int:
    network = contestant.network.to(device)
    try:
        return peak_bytes(network, _images(contestant, batch).to(device))
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
    contestant, network = one.contestant, one.contestant.network
    middle = median(seconds)
    return BenchRow(
        run=contestant.run,
        contestant=contestant.role,
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
        promised_speedup=contestant.promised_speedup,
        macs=contestant.macs,
        parameters=cost.parameters(network),
        nonzero_parameters=cost.nonzero(network),
        file_bytes=contestant.file_bytes,
        memory_bytes=cost.bytes_of(network),
        peak_bytes=peak,
        accuracy=one.accuracy,
        test_images=len(contestant.deployment.data.test) if contestant.trained else None,
        difference=one.difference,
    )
