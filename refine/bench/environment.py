"""On which machine, and with which versions of libraries, was it measured?"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from refine.records.environment import versions
from refine.training.device import describe

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")


def environment(device: torch.device) -> dict[str, Any]:
    """Processor, threads, and versions of libraries; None for those that are not installed."""
    return versions() | {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "threads_of": ["torch", "onnxruntime", "openvino"],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": describe(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        **{name: _version(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's name, as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
