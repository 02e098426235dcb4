"""Where does a run compute, and in which precision?"""

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from refine.errors import SettingError


class Machine:
    """Where a run computes, and in which precision; SettingError where this machine lacks it."""

    def __init__(self, device: str, precision: str, deterministic: bool):
        self.device = choose_device(device)
        be_deterministic(deterministic)
        self.precision = Precision(precision, self.device)
        self.name = describe(self.device)

    def described(self) -> dict[str, str]:
        """The device and the precision, for ``environment.json``."""
        return {"device": self.name, "precision": self.precision.name}


def choose_device(name: str) -> torch.device:
    """The device that ``device=NAME`` means; SettingError where this machine lacks it."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= found:
            have = f"has {found} CUDA device(s)" if found else "has no CUDA device"
            raise SettingError("device", f"{name} was asked for and this machine {have}; try auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SettingError("device", "mps was asked for and this machine has none; try device=auto")
    return torch.device(name)


def describe(device: torch.device) -> str:
    """The device's name for people: the GPU's, or the processor and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return str(device)


def use_threads(count: int | None) -> None:
    """Limits computation on the CPU to ``count`` threads; None leaves one for each core."""
    if count:
        torch.set_num_threads(count)


@contextmanager
def gpu_of_ones_own(name: str, place: Path) -> Iterator[str]:
    """The device for one of several runs on this machine. With several GPUs it is one that no other
    run in ``place`` uses, for as long as the context lasts."""
    count = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    for index in range(count if count > 1 else 0):
        with suppress(Timeout), FileLock(place / f".gpu-{index}.lock", timeout=0):
            yield f"cuda:{index}"
            return
    yield name


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks instead of returning them to the system.

    By default every activation over 32 MiB is mapped and unmapped in each step, and its pages are
    faulted in anew. ``scripts/benchmark_training.py --allocator`` measures what this gains.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def be_deterministic(wanted: bool) -> None:
    """Allows only operations that give the same bits every time, if ``wanted``. On a CPU all do,
    for an equal number of threads."""
    if wanted:  # cuBLAS reads it as CUDA starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = False


class Precision:
    """The arithmetic of forward and backward pass, and the step of an optimizer in it.

    ``name`` is auto, fp32, bf16 or fp16 (see ``--help``); after construction it is what auto chose.
    """

    def __init__(self, name: str, device: torch.device):
        self.name = _auto(device) if name == "auto" else name
        if self.name == "fp16" and device.type != "cuda":
            raise SettingError("trainer.precision", f"fp16 needs CUDA, not {device}; try auto")
        self.device = device
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name)
        # Half precision has 5 exponent bits: small gradients vanish unless the loss is scaled up.
        self._scaler = torch.amp.GradScaler("cuda", enabled=self.name == "fp16")

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of ``loss``, scaled where the precision needs it."""
        self._scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradients by the scale, so that they can be changed before the step."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of ``optimizer`` on the gradients, unscaled; skipped if they overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict:
        """The scale of the gradients, where there is one."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Takes the scale over from a ``state_dict``; an empty one changes nothing."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)


def _auto(device: torch.device) -> str:
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):  # Ampere and later have bf16
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    if device.type == "cpu" and _cpu_has_bf16():
        return "bf16"
    return "fp32"


@functools.cache
def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 products are faster than those in single precision there."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and later
    return device.type == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    # Only where the instructions exist: emulated, bf16 is slower than fp32.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)
