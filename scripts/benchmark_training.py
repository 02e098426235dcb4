"""How much faster is the runner than the loop that most people write?

Times the epochs of ``experiment=paper`` (train and evaluate, 10,000 images each) against the
idiomatic loop: PIL transforms, a DataLoader with two workers, fp32, torch.nn.utils.prune. Both in
this process, alternating, on the same pictures; the ratio is that of the medians. Then:
the share of an epoch that a cut takes, and of a step that keeping cut weights at zero takes.

    python scripts/benchmark_training.py [--rounds 5] [--device auto] [--images 10000] [--allocator]

The pictures are random; time does not depend on what they show.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from refine import Replay, RuntimeRefinement
from refine.datasets.augmentation import crop_flip
from refine.datasets.images import Images, Normalization
from refine.datasets.prepare import Data
from refine.evaluation.accuracy import accuracy
from refine.models import simple_cnn
from refine.training.device import Precision, choose_device, describe, keep_freed_memory
from refine.training.step import Stepper

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument(
        "--allocator", action="store_true", help="time keep_freed_memory() instead, on ResNet-18"
    )
    options = parser.parse_args()
    device = choose_device(options.device)
    print(f"{describe(device)}, torch {torch.__version__}, {options.images:,} + {options.images:,}")
    images = random_images(options.images)
    if options.allocator:
        time_allocator(images, device)
        return
    keep_freed_memory()
    idiomatic, ours = Idiomatic(images, device), Ours(images, device)
    print(f"precision here {ours.precision.name}, there fp32; seconds an epoch:")
    times: dict[str, list[float]] = {}
    contestants = {
        "idiomatic train": idiomatic.train,
        "idiomatic evaluate": idiomatic.evaluate,
        "runner train": ours.train,
        "runner evaluate": ours.evaluate,
    }
    for round_number in range(options.rounds + 1):
        for name, call in contestants.items():
            seconds = timed(call, device)
            if round_number:  # the first round warms up
                times.setdefault(name, []).append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"  {name:20} {medians[name]:7.3f}   {min(values):7.3f} to {max(values):.3f}")
    for part in ("train", "evaluate"):
        ratio = medians[f"idiomatic {part}"] / medians[f"runner {part}"]
        print(f"{part}: {ratio:.2f} times faster")
    there = medians["idiomatic train"] + medians["idiomatic evaluate"]
    here = medians["runner train"] + medians["runner evaluate"]
    ratios = [
        (a + b) / (c + d) for a, b, c, d in zip(*(times[name] for name in contestants), strict=True)
    ]
    print(
        f"train and evaluate: {there / here:.2f} times faster (target: 4; "
        f"{min(ratios):.2f} to {max(ratios):.2f} by round)"
    )
    cut, step, zero = ours.time_cut(), ours.time_step(), ours.time_zero()
    print(f"cut (score, allocate, mask): {cut / here:.2%} of an epoch (target: under 5 %)")
    print(f"keeping cut weights at zero: {zero / step:.2%} of a step (target: under 3 %)")


def random_images(count: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(10, (count,), generator=generator))


def timed(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Pictures(Dataset):
    """Like a torchvision data set: gives PIL images, transformed when they are read."""

    def __init__(self, images: Images, transform: Callable):
        self.pictures = [Image.fromarray(picture) for picture in images.pixels.numpy()]
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


class Idiomatic:
    """The loop of most tutorials after its first cycle, with the masks of torch.nn.utils.prune."""

    def __init__(self, images: Images, device: torch.device):
        self.device = device
        plain = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        pinned = device.type == "cuda"
        self.training, self.testing = (
            DataLoader(
                Pictures(images, transforms.Compose(steps)),
                batch_size=128,
                shuffle=shuffle,
                num_workers=2,
                pin_memory=pinned,
            )
            for steps, shuffle in ((augment + plain, True), (plain, False))
        )
        torch.manual_seed(0)
        self.model = simple_cnn().to(device)
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                prune.l1_unstructured(module, "weight", amount=0.15)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def train(self) -> None:
        self.model.train()
        running = 0.0
        for images, labels in self.training:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            running += loss.item()

    def evaluate(self) -> float:
        self.model.eval()
        right = 0
        with torch.no_grad():
            for images, labels in self.testing:
                images, labels = images.to(self.device), labels.to(self.device)
                right += (self.model(images).argmax(1) == labels).sum().item()
        return right / len(self.testing.dataset)


class Ours:
    """The same after its first cycle, with the parts of refine-run."""

    def __init__(self, images: Images, device: torch.device):
        torch.manual_seed(0)
        self.device = device
        self.precision = Precision("auto", device)
        images = images.to(device)
        normalization = Normalization.of(images)
        self.data = Data(images, None, images, [*"0123456789"], normalization, crop_flip)
        self.model = simple_cnn().to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.stepper = Stepper(self.model, optimizer, self.precision)
        self.refinement = RuntimeRefinement(self.model, replay=Replay(steps=0).batches)
        self.refinement.refinement_cycle(prune_ratio=0.15)
        self.training = self.data.training(128, torch.Generator().manual_seed(0))
        self.testing = self.data.plain(images)

    def train(self) -> None:
        self.model.train()
        losses = [self.stepper(images, labels)[0] for images, labels in self.training]
        torch.stack(losses).isfinite().all().item()

    def evaluate(self) -> float:
        return accuracy(self.model, self.testing, self.precision.autocast).accuracy

    def time_cut(self) -> float:
        """Median seconds of score, allocate and mask in a cycle."""
        seconds = []
        for _ in range(9):
            refinement = RuntimeRefinement(
                copy.deepcopy(self.model), replay=Replay(steps=0).batches
            )
            report = refinement.refinement_cycle(prune_ratio=0.15)
            steps = ("score", "choose", "cut")
            seconds.append(sum(report.seconds[step] for step in steps))
        return statistics.median(seconds)

    def time_step(self) -> float:
        images, labels = next(iter(self.training))
        return statistics.median(
            timed(lambda: self.stepper(images, labels), self.device) for _ in range(60)
        )

    def time_zero(self) -> float:
        masks = self.refinement.masks
        return statistics.median(
            timed(masks.zero_cut_gradients_, self.device) + timed(masks.zero_cut_, self.device)
            for _ in range(200)
        )


def time_allocator(images: Images, device: torch.device) -> None:
    """Seconds of ResNet-18's fp32 steps at batch 128 before and after keep_freed_memory()."""
    from refine.models import resnet18

    model = resnet18().to(device, memory_format=torch.channels_last)
    stepper = Stepper(model, torch.optim.SGD(model.parameters()), Precision("fp32", device))
    data = Data(images, None, images, [*"0123456789"], Normalization.of(images), crop_flip)
    batch = next(iter(data.plain(images[:128])))
    medians = []
    for name, prepare in (("as glibc does", lambda: None), ("kept", keep_freed_memory)):
        prepare()
        seconds = [timed(lambda: stepper(*batch), device) for _ in range(8)][2:]
        medians.append(statistics.median(seconds))
        print(f"freed memory {name}: {medians[-1]:.3f} s a step")
    print(f"keeping it: {medians[0] / medians[1]:.2f} times faster")


if __name__ == "__main__":
    main()
