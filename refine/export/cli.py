"""The command ``refine-export``: writes the files that a deployment needs from a run."""

import argparse
import sys
from pathlib import Path
from typing import Any

from refine.errors import NetworkError, SettingError, one_of
from refine.export.options import DIRECTORY, FACTS_FILE, NAMES, TOLERANCE, Options
from refine.process import run_command, version, working_directory

DESCRIPTION = """\
Writes the network of a run as files that can be deployed.

Channels of a masked network that do nothing are removed first: the network becomes physically
smaller, and its outputs stay the same. Every file is read again, and its outputs for real test
images are compared with those of the run's network. A table and export.json show how much they
differ and what was removed. The files of the run are not changed.
"""
EPILOG = """\
formats:
  safetensors   model.safetensors: all tensors, and which network they are of
  sparse        model.safetensors.z: the same without the zeros, compressed
  torch         model.pt2: a program of torch.export, batches of any size
  onnx          model.onnx: for ONNX Runtime and others, batches of any size
  int8          model.int8.onnx: 8-bit integers, calibrated on training images; with its accuracy.
                Layers for which 8 bits cost more than --tolerance keep single precision
  2:4           model.2-4.safetensors: two of every four weights, in half precision; on a CUDA GPU
                with semi-structured kernels only
onnx and int8 need: pip install 'runtime-refinement[export]'. Finding channels that do nothing
needs: pip install 'runtime-refinement[structured]'.

examples:
  refine-export results/runs/2026-01-31/12-00-00        the default formats, into RUN_DIR/export
  refine-export RUN_DIR --fold --format safetensors,onnx,int8
  refine-export RUN_DIR --to deploy --dataset-root ~/pictures

loading, in Python; nothing in the file is executed:
  import refine
  model = refine.load_model("RUN_DIR/export/model.safetensors.z")
  logits = model(images)

The images are floats (N, channels, height, width), from 0 to 1, normalised by the file's numbers:
  from refine.stored.network_file import read
  _, about = read("RUN_DIR/export/model.safetensors.z")
  mean, deviation = (torch.tensor(n).view(-1, 1, 1) for n in (about.mean, about.deviation))
  images = (pictures / 255 - mean) / deviation          # about.classes names the logits
ONNX files have these numbers as JSON in their metadata under "refine", model.pt2 as an extra file.

For a network that is not one of refine.models, give one: load_model(path, network=MyNet()).
The run's configuration can name any code, which is executed: export only runs that you trust.
Exit code: 0 done, 1 error, 2 wrong options.
"""
HEADER = ("file", "bytes", "of dense", "difference", "accuracy", "")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = _options(argv)

    def work() -> None:
        sys.path.append(str(working_directory()))  # a user's own models are found here
        from refine.export.work import export  # only now: --help needs no torch

        _show(options, export(options))

    return run_command(
        "refine-export",
        work,
        (NetworkError, SettingError),
        lambda error: f"{error.filename or options.to}: {error.strerror or error}",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="refine-export",
        usage="refine-export RUN_DIR [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=version())
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="the directory of a run")
    parser.add_argument(
        "--format",
        metavar="NAMES",
        help="formats, separated by commas (default: safetensors, and sparse if at least half of "
        "the parameters are 0)",
    )
    parser.add_argument(
        "--to", metavar="DIR", type=Path, help=f"where to write; default RUN_DIR/{DIRECTORY}"
    )
    parser.add_argument(
        "--fold",
        action="store_true",
        help="fold batch norms into the convolution or linear layer before them",
    )
    parser.add_argument("--keep-dead", action="store_true", help="keep channels that do nothing")
    parser.add_argument(
        "--dataset-root",
        metavar="PATH",
        help="where the run's data set is, if it has moved",
    )
    parser.add_argument(
        "--tolerance",
        metavar="SHARE",
        type=float,
        default=TOLERANCE,
        help="how much accuracy int8 may cost, on validation images or, without any, training "
        f"images (default: {TOLERANCE}); past it, the layers that cost most stay in fp32",
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    return parser


def _options(argv: list[str] | None) -> Options:
    """The options, checked; exits with 2 if one is wrong."""
    parser = _parser()
    given = parser.parse_args(argv)
    formats = None
    if given.format is not None:
        formats = tuple(dict.fromkeys(name.strip() for name in given.format.split(",")))
        for name in formats:
            if name not in NAMES:
                parser.error(f"--format: there is no {name!r}; {one_of(list(NAMES), name)}")
    if not 0 <= given.tolerance < 1:
        parser.error(
            f"--tolerance: must be from 0 to below 1, not {given.tolerance}; 0.005 is half a point"
        )
    to = given.to or given.run / DIRECTORY
    return Options(
        given.run,
        to,
        formats,
        given.fold,
        given.keep_dead,
        given.dataset_root,
        given.force,
        given.tolerance,
    )


def _show(options: Options, facts: dict[str, Any]) -> None:
    _show_files(facts["files"])
    print(
        f"\nof dense:    share of the dense network's file, {facts['dense_bytes']:,} bytes\n"
        f"difference:  the greatest of any logit of {facts['compared_images']:,} test images from "
        f"the run's network,\n"
        f"             which is right on {facts['accuracy']:.2%} of {facts['test_images']:,} (fp32)"
    )
    for count, title in (("parameters", "parameters"), ("nonzero", "not 0"), ("macs", "MACs")):
        stages = ", ".join(f"{stage} {costs[count]:,}" for stage, costs in facts["costs"].items())
        print(f"{title + ':':<12} {stages}")
    if channels := facts["removed_channels"]:
        listed = ", ".join(f"{layer} {count}" for layer, count in channels.items())
        print(f"removed:     {sum(channels.values()):,} dead channels ({_short(listed)})")
    if facts["folded_norms"]:
        names = ", ".join(facts["folded_norms"])
        print(f"folded:      {len(facts['folded_norms'])} batch norms ({_short(names)})")
    for note in facts["notes"]:
        print(f"note:        {note}")
    print(f"wrote {options.to} and in it {FACTS_FILE}")


def _show_files(files: list[dict[str, Any]]) -> None:
    rows = [HEADER]
    for file in files:
        measured = file["accuracy"]
        rows.append(
            (
                file["file"],
                f"{file['bytes']:,}",
                f"{file['share']:.1%}",
                f"{file['difference']:.1e}",
                "" if measured is None else f"{measured:.2%}",
                file["how"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if index in (0, len(row) - 1) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _short(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:70].rpartition(',')[0]}, ..."


if __name__ == "__main__":
    sys.exit(main())
