"""The command ``refine-bench``: a refined network beside the dense one, in numbers, words and a
picture."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from refine.bench.names import FORMS, USUAL_ON_CPU, USUAL_ON_GPU
from refine.bench.rows import CSV_FILE, FIGURE_FILE, JSON_FILE, BenchRow, as_csv
from refine.errors import NetworkError, ReportError, SettingError, one_of
from refine.files import write_text

SECONDS = 8.0
DESCRIPTION = """\
Measures the network that a run left beside the dense one: parameters, multiply-accumulates (MACs),
bytes of file and memory, time of a batch (median, 95th percentile), images a second, peak memory
and test accuracy, in one process, by turns, after warm-up.

Of each RUN_DIR there are up to three networks: dense, as it was built before any cut (untrained,
which is as fast, but has no accuracy; --dense names the run of a trained one); refined, as the run
left it; and exported, RUN_DIR/export/model.safetensors or .z, if refine-export has written it.

MACs are those of convolutions, linear layers and matrix products, for one image. The speed-up that
they promise is the dense network's by the network's own.
"""
EXAMPLES = """\
forms, each with as many threads as --threads says:
  eager             PyTorch as it is; folded: with batch norms in the layers before them
  compiled          a program of torch.export, compiled by inductor (needs a C++ compiler)
  onnxruntime, openvino              the ONNX file that refine-export writes, on the CPU
  onnxruntime-int8, openvino-int8    the same in 8 bits, calibrated on training images
  eager-bf16, compiled-bf16; on a GPU also eager-fp16, compiled-fp16
  What is not installed is named and left out: pip install 'runtime-refinement[bench]'

examples:
  refine-bench results/runs/2026-01-31/12-00-00          a minute or two for a ResNet-20
  refine-bench RUN_DIR --form eager,openvino --batch 32 --threads 2
  refine-bench RUN_DIR --dense DENSE_RUN_DIR             with the accuracy of a dense twin
  refine-bench results/sweeps/NAME/*/ --seconds 3 --to results/bench/sweep

Writes bench.csv (a row for each network, form and batch size), bench.json (what it was measured
with) and bench.png. Exit code: 0 done, 1 error, 2 options that do not fit together.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; its exit code."""
    arguments = _arguments(argv)
    try:
        _bench(arguments)
        sys.stdout.flush()
    except (NetworkError, ReportError, SettingError) as error:
        problem = str(error)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        problem = f"{error.filename or 'a file'} cannot be written ({error.strerror or error})"
    else:
        return 0
    print(f"refine-bench: {problem}", file=sys.stderr)
    return 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="refine-bench",
        usage="refine-bench RUN_DIR [RUN_DIR ...] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", metavar="RUN_DIR", nargs="+", type=Path, help="the directory of a run"
    )
    parser.add_argument(
        "--form",
        metavar="FORM,...",
        type=_forms,
        help=f"default: {', '.join(USUAL_ON_CPU)}; on a GPU {', '.join(USUAL_ON_GPU)}",
    )
    parser.add_argument(
        "--batch",
        metavar="N,...",
        type=_batches,
        default=(1, 8, 32, 128),
        help="images at a time; default 1,8,32,128",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--repeats", metavar="N", type=_positive, help="measured calls of each program and batch"
    )
    length.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        help=f"instead, how long all of them take at each batch size; default {SECONDS:g}",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any"
    )
    parser.add_argument(
        "--dense", metavar="RUN_DIR", type=Path, help="the run of a dense network to compare with"
    )
    parser.add_argument(
        "--dataset-root", metavar="PATH", help="where the data set is, if not where it was"
    )
    parser.add_argument(
        "--test-images",
        metavar="N",
        type=int,
        default=2000,
        help="how many accuracy is measured on, the same in every form; 0: all; default 2000",
    )
    parser.add_argument("--threads", metavar="N", type=_positive, help="default: one a core")
    parser.add_argument(
        "--to",
        metavar="DIR",
        type=Path,
        help="where to write; default RUN_DIR/bench, of several runs results/bench/<date>/<time>",
    )
    parser.add_argument("--force", action="store_true", help="also over an earlier measurement")
    arguments = parser.parse_args(argv)
    if arguments.seconds is not None and not 0 < arguments.seconds < 1e6:
        parser.error("--seconds: a number above 0, such as 8")
    if arguments.test_images < 0:
        parser.error("--test-images: a number of images, or 0 for all")
    return arguments


def _forms(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FORMS:
            raise argparse.ArgumentTypeError(f"there is no {name!r}; {one_of(list(FORMS), name)}")
    return names


def _batches(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(part) for part in text.split(",")}))


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return number


def _bench(arguments: argparse.Namespace) -> None:
    to = _place(arguments)
    from refine.bench.comparison import Asked, compared  # only now: --help needs no torch

    asked = Asked(
        runs=tuple(arguments.runs),
        dense=arguments.dense,
        forms=arguments.form,
        batches=arguments.batch,
        repeats=arguments.repeats,
        seconds=arguments.seconds or (None if arguments.repeats else SECONDS),
        device=arguments.device,
        threads=arguments.threads,
        test_images=arguments.test_images,
        dataset_root=arguments.dataset_root,
    )
    with _progress() as tell, TemporaryDirectory(prefix="refine-bench-") as place:
        comparison = compared(asked, Path(place), tell)
    _write(to, comparison.rows, comparison.record())
    _show(comparison.rows, comparison.skipped, comparison.sentences)
    print(f"wrote {to / CSV_FILE}, {JSON_FILE} and {FIGURE_FILE}")


def _place(arguments: argparse.Namespace) -> Path:
    """Where it is written; ReportError, before anything is measured, if it cannot be there."""
    to = arguments.to
    if to is None and len(arguments.runs) == 1:
        to = arguments.runs[0] / "bench"
    elif to is None:
        to = Path(f"results/bench/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    if to.exists() and not to.is_dir():
        raise ReportError(f"--to: {to} is a file; name a directory")
    taken = [name for name in (CSV_FILE, JSON_FILE, FIGURE_FILE) if (to / name).exists()]
    if taken and not arguments.force:
        raise ReportError(
            f"{to / taken[0]} exists; --to DIR is for another place, --force overwrites it"
        )
    there = next(folder for folder in (to, *to.absolute().parents) if folder.exists())
    if arguments.runs[0].is_dir() and not os.access(there, os.W_OK):
        raise ReportError(f"--to: {there} cannot be written to; choose another place")
    return to


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Tells what is being done, on a terminal alone."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False, markup=False).status("starting") as status:
        yield status.update


def _write(to: Path, rows: list[BenchRow], record: dict[str, Any]) -> None:
    """All three files; nothing is written before all of it is made."""
    from refine.bench.picture import speedups
    from refine.report.plots import save

    figure, text = speedups(rows), json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    to.mkdir(parents=True, exist_ok=True)
    save(figure, to / FIGURE_FILE)
    write_text(to / JSON_FILE, text)
    write_text(to / CSV_FILE, as_csv(rows))


def _show(rows: list[BenchRow], skipped: dict[str, str], sentences: list[str]) -> None:
    from rich.console import Console

    from refine.bench.tables import tables

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, soft_wrap=True, width=160)
    for table in tables(rows):
        console.print(table)
    for name, reason in skipped.items():
        console.print(f"left out: {name}: {reason}")
    for sentence in sentences:
        console.print(sentence)


if __name__ == "__main__":
    sys.exit(main())
