"""What does exporting a run write, and what is there to say of it?"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf.errors import OmegaConfBaseException

from refine.errors import NetworkError, SettingError
from refine.evaluation.cost import macs, nonzero, parameters
from refine.export import formats, onnx_files, semi_structured
from refine.export.dead_channels import alive_only
from refine.export.deployment import Deployment, Written
from refine.export.folding import folded
from refine.export.network_file import content_of
from refine.export.options import FACTS_FILE, Options
from refine.export.trained import Trained
from refine.records.files import write_text

EXTRA = "pip install 'runtime-refinement[export]'"
HALF = 0.5  # share of zeros from which the file without them is written unasked
EXAMPLES = 8  # images that show torch-pruning which channels go together


@dataclass(frozen=True)
class Format:
    """How a format is written, its file's name, and the libraries that it takes."""

    write: Callable[[Path, Deployment], Written]
    file: str
    needs: tuple[str, ...] = ()


ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "safetensors": Format(formats.safetensors, "model.safetensors"),
    "sparse": Format(formats.sparse, "model.safetensors.z"),
    "torch": Format(formats.torch_export, "model.pt2"),
    "onnx": Format(onnx_files.onnx, "model.onnx", ONNX),
    "int8": Format(onnx_files.int8, "model.int8.onnx", ONNX),
    "2:4": Format(semi_structured.two_of_four, "model.2-4.safetensors"),
}


def export(options: Options) -> dict[str, Any]:
    """Writes the files and ``export.json``; what that holds. NetworkError, SettingError or OSError
    says why not."""
    _check(options.formats or ())
    trained = Trained(options.run, options.dataset_root)
    try:
        deployment, changes = _deployment(trained, options)
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).split())
        raise NetworkError(f"{options.run}: its config.yaml is damaged: {reason:.120}") from None
    notes = [note for note in changes.pop("notes") if note]
    names = options.formats
    if names is None:
        zeros = 1 - nonzero(deployment.network) / parameters(deployment.network)
        names = ("safetensors", "sparse") if zeros >= HALF else ("safetensors",)
        if zeros < HALF:
            notes.append(
                f"{zeros:.1%} of the parameters are 0: no sparse file, which takes half of them; "
                "--format sparse writes it nevertheless"
            )
    to = options.to
    _check_place(options, [*(FORMATS[name].file for name in names), FACTS_FILE])
    facts: dict[str, Any] = {
        "version": 1,
        "network": deployment.description.function,
        "accuracy": deployment.accuracy,
        "test_images": len(deployment.data.test),
        "compared_images": len(deployment.images),
        **_costs(deployment),
        **changes,
        "notes": notes,
        "files": [],
    }
    for name in names:
        try:
            written = FORMATS[name].write(to, deployment)
        except (NetworkError, SettingError, OSError):
            raise
        except Exception as error:  # an exporter of others, and a network of the user's own
            reason = " ".join(str(error).split())
            raise NetworkError(
                f"--format {name}: this network cannot be written so: {reason:.160}"
            ) from error
        share = written.bytes / facts["dense_bytes"]
        facts["files"].append({"format": name, **asdict(written), "share": share})
    write_text(to / FACTS_FILE, json.dumps(facts, indent=2) + "\n")
    return facts


def _check(names: tuple[str, ...]) -> None:
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


def _check_place(options: Options, files: list[str]) -> None:
    to = options.to
    if to.exists() and not to.is_dir():
        raise SettingError("--to", f"{to} is no directory")
    if to.resolve() == options.run.resolve():
        raise SettingError("--to", f"{to} is the run's own and stays as it is; choose another")
    there = [name for name in files if (to / name).exists()]
    if there and not options.force:
        raise SettingError(
            "--to", f"{to / there[0]} exists; --to DIR is for another place, --force overwrites it"
        )
    to.mkdir(parents=True, exist_ok=True)


def _deployment(trained: Trained, options: Options) -> tuple[Deployment, dict[str, Any]]:
    """What is exported, and what was taken out of the network for it."""
    try:
        _ = trained.config  # a directory that is no run's is told first
        before = trained.network()
        data, description = trained.data, trained.description()
    except SettingError as error:
        if error.setting.startswith("dataset"):
            problem = f"{error.problem}; --dataset-root PATH says where the data set is now"
            raise SettingError(error.setting, problem) from error
        raise
    before = before.to(memory_format=torch.contiguous_format)
    whole = Deployment(before, before, trained.untrained(), description, data)
    network, example = before, whole.images[:EXAMPLES]
    removed, norms, notes = {}, {}, []
    if not options.keep_dead:
        network, removed, note = alive_only(network, example)
        notes.append(note)
    if options.fold:
        network, norms, note = folded(network, example)
        notes.append(note)
    network = network.to(memory_format=torch.contiguous_format)
    changed = replace(whole, network=network, description=replace(description, folded=norms))
    return changed, {"removed_channels": removed, "folded_norms": norms, "notes": notes}


def _costs(deployment: Deployment) -> dict[str, Any]:
    """Parameters, those that are not 0, and multiply-accumulates an image, before and after; bytes
    of the dense network's file."""
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
