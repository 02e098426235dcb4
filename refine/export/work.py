"""Which files does the export of a run write, and what does it report?"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf.errors import OmegaConfBaseException

from refine.errors import NetworkError, SettingError
from refine.evaluation.cost import macs, nonzero, parameters
from refine.export import formats, int8, onnx_files, semi_structured
from refine.export.dead_channels import without_dead_channels
from refine.export.deployment import Deployment, Written
from refine.export.folding import folded
from refine.export.options import FACTS_FILE, Options
from refine.export.trained import Trained
from refine.records.directory_whole import all_or_none
from refine.records.files import write_text
from refine.stored.network_file import content_of

EXTRA = "pip install 'runtime-refinement[export]'"
HALF = 0.5  # share of zeros from which the sparse file is among the default formats
NOTED = 0.05  # share of zeros from which it is said that a sparse file could be written
EXAMPLES = 8  # images from which torch-pruning finds the channels that belong together


@dataclass(frozen=True)
class Format:
    """``write``: writes the file; ``file``: its name; ``needs``: the libraries for it."""

    write: Callable[[Path, Deployment], Written]
    file: str
    needs: tuple[str, ...] = ()


ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "safetensors": Format(formats.safetensors, "model.safetensors"),
    "sparse": Format(formats.sparse, "model.safetensors.z"),
    "torch": Format(formats.torch_export, "model.pt2"),
    "onnx": Format(onnx_files.onnx, "model.onnx", ONNX),
    "int8": Format(int8.int8, "model.int8.onnx", ONNX),
    "2:4": Format(semi_structured.two_of_four, "model.2-4.safetensors"),
}


def export(options: Options) -> dict[str, Any]:
    """Writes the files and ``export.json``, and returns what that holds. NetworkError, SettingError
    or OSError says what prevents it."""
    _check_formats(options.formats or ())
    trained = Trained(options.run, options.dataset_root)
    try:
        deployment, changes = _deployment(trained, options)
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).split())
        raise NetworkError(f"{options.run}: its config.yaml is damaged: {reason:.120}") from None
    names, notes = options.formats, changes.notes
    if names is None:
        names, more = _default_formats(deployment)
        notes = [*notes, *more]
    _check_directory(options, [*(FORMATS[name].file for name in names), FACTS_FILE])
    facts: dict[str, Any] = {
        "version": 1,
        "network": deployment.description.function,
        "accuracy": deployment.accuracy,
        "test_images": len(deployment.data.test),
        "compared_images": len(deployment.images),
        **_costs(deployment),
        "removed_channels": changes.removed_channels,
        "folded_norms": changes.folded_norms,
        "notes": notes,
        "files": [],
    }
    with all_or_none(options.to) as part:
        for name in names:
            written = _write(name, part, deployment)
            share = written.bytes / facts["dense_bytes"]
            facts["files"].append({"format": name, **asdict(written), "share": share})
        write_text(part / FACTS_FILE, json.dumps(facts, indent=2) + "\n")
    return facts


def _write(name: str, directory: Path, deployment: Deployment) -> Written:
    try:
        return FORMATS[name].write(directory, deployment)
    except (NetworkError, SettingError, OSError):
        raise
    except Exception as error:  # another library's exporter, or the user's own network
        reason = " ".join(str(error).split())
        raise NetworkError(
            f"--format {name}: this network cannot be written in it: {reason:.160}"
        ) from error


def _default_formats(deployment: Deployment) -> tuple[tuple[str, ...], list[str]]:
    """The formats that are written if none is named, and what there is to say about them."""
    zeros = 1 - nonzero(deployment.network) / parameters(deployment.network)
    if zeros >= HALF:
        return ("safetensors", "sparse"), []
    if zeros < NOTED:
        return ("safetensors",), []
    return ("safetensors",), [
        f"{zeros:.0%} of the parameters are 0; --format sparse writes a file without them, as is "
        f"done by default from {HALF:.0%} on"
    ]


def _check_formats(names: tuple[str, ...]) -> None:
    for name in names:
        lacking = [lib for lib in FORMATS[name].needs if importlib.util.find_spec(lib) is None]
        if lacking:
            raise SettingError("--format", f"{name} needs {', '.join(lacking)}: {EXTRA}")
    if "2:4" in names and not semi_structured.usable():
        raise SettingError(
            "--format",
            "2:4 needs a CUDA GPU of compute capability 8.0 or later, and this machine has none; "
            "--format safetensors keeps the network dense, with its zeros",
        )


def _check_directory(options: Options, files: list[str]) -> None:
    """SettingError if the directory for ``files`` must not be used."""
    to = options.to
    if to.exists() and not to.is_dir():
        raise SettingError("--to", f"{to} is not a directory")
    if to.resolve() == options.run.resolve():
        raise SettingError("--to", f"{to} is the run's own directory; choose another")
    there = [name for name in files if (to / name).exists()]
    if there and not options.force:
        raise SettingError(
            "--to",
            f"{to / there[0]} exists; choose another directory, or overwrite it with --force",
        )


@dataclass
class Changes:
    """What was removed from the network before it is written: ``removed_channels``, how many by
    layer; ``folded_norms``, each with the layer that does their work; ``notes``, what could not be
    done."""

    removed_channels: dict[str, int] = field(default_factory=dict)
    folded_norms: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _deployment(trained: Trained, options: Options) -> tuple[Deployment, Changes]:
    """What is exported, and what was removed from the network for it."""
    try:
        _ = trained.config  # first: a directory may not be a run's
        before = trained.network()
        data, description = trained.data, trained.description()
    except SettingError as error:
        if error.setting.startswith("dataset"):
            problem = f"{error.problem}; if the data set has moved, use --dataset-root PATH"
            raise SettingError(error.setting, problem) from error
        raise
    before = before.to(memory_format=torch.contiguous_format)
    whole = Deployment(before, before, trained.untrained(), description, data, options.tolerance)
    network, example = before, whole.images[:EXAMPLES]
    changes = Changes()
    if not options.keep_dead:
        network, changes.removed_channels, note = without_dead_channels(network, example)
        changes.notes += [note] if note else []
    if options.fold:
        network, changes.folded_norms, note = folded(network, example)
        changes.notes += [note] if note else []
    network = network.to(memory_format=torch.contiguous_format)
    description = replace(description, folded=changes.folded_norms)
    deployment = replace(whole, network=network, description=description)
    return deployment, changes


def _costs(deployment: Deployment) -> dict[str, Any]:
    """Parameters, those that are not 0, and multiply-accumulates per image of each stage; bytes of
    the dense network's file."""
    stages = {
        "dense": deployment.dense,
        "run": deployment.before,
        "exported": deployment.network,
    }
    shape = deployment.description.input_shape
    costs: dict[str, Any] = {
        stage: {
            "parameters": parameters(network),
            "nonzero": nonzero(network),
            "macs": macs(network, shape),
        }
        for stage, network in stages.items()
    }
    size = len(content_of(deployment.dense, deployment.description))
    return {"dense_bytes": size, "costs": costs}
