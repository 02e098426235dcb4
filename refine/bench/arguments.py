"""Which options does ``refine-bench`` have?"""

import argparse
from pathlib import Path

from refine.bench.names import FORMS, USUAL_ON_CPU, USUAL_ON_GPU
from refine.config.choices import FIGURES
from refine.errors import one_of
from refine.process import version

SECONDS = 8.0
DESCRIPTION = """\
Compares the network of a run with the dense one: parameters, multiply-accumulates (MACs), bytes of
file and memory, time of a batch (median, 95th percentile), images per second, peak memory and test
accuracy. All are measured in one process, in turns, after a warm-up.

For each RUN_DIR there are up to three networks: dense, as it was built before any cut (untrained,
which is as fast, but has no accuracy; --dense names the run of a trained one); refined, as the run
left it; and exported, RUN_DIR/export/model.safetensors or .z, if refine-export has written it.

MACs are those of convolutions, linear layers and matrix products, for one image. The speed-up that
they promise is the MACs of the dense network, divided by those of the network.
"""
EXAMPLES = """\
forms, each with as many threads as --threads says:
  eager             PyTorch as it is; folded: with batch norms in the layers before them
  compiled          a program of torch.export, compiled by inductor (needs a C++ compiler)
  onnxruntime, openvino              the ONNX file that refine-export writes, on the CPU
  onnxruntime-int8, openvino-int8    the same in 8 bits, calibrated on training images
  eager-bf16, compiled-bf16; on a GPU also eager-fp16, compiled-fp16
  Forms that are not installed are named and left out: pip install 'runtime-refinement[bench]'

examples:
  refine-bench results/runs/2026-01-31/12-00-00          a minute or two for a ResNet-20
  refine-bench RUN_DIR --form eager,openvino --batch 32 --threads 2
  refine-bench RUN_DIR --dense DENSE_RUN_DIR             with the accuracy of a dense network
  refine-bench results/sweeps/NAME/*/ --seconds 3 --to results/bench/sweep

Writes bench.csv (a row for each network, form and batch size), bench.json (on which machine it was
measured) and bench.png. Exit code: 0 done, 1 error, 2 wrong options.
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options, checked; one of ``repeats`` and ``seconds`` is None. Exits with 2 if an option
    is wrong."""
    parser = argparse.ArgumentParser(
        prog="refine-bench",
        usage="refine-bench RUN_DIR [RUN_DIR ...] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=version())
    parser.add_argument(
        "runs", metavar="RUN_DIR", nargs="+", type=Path, help="the directory of a run"
    )
    _add_measurement(parser)
    _add_comparison(parser)
    _add_place(parser)
    arguments = parser.parse_args(argv)
    if arguments.seconds is not None and not 0 < arguments.seconds < 1e6:
        parser.error("--seconds: a number above 0, such as 8")
    if arguments.test_images < 0:
        parser.error("--test-images: a number of images, or 0 for all")
    if arguments.repeats is None and arguments.seconds is None:
        arguments.seconds = SECONDS
    return arguments


def _add_measurement(parser: argparse.ArgumentParser) -> None:
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
        help="batch sizes in images; default 1,8,32,128",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--repeats", metavar="N", type=_positive, help="measured calls of each network and form"
    )
    length.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        help=f"instead: how long all calls of a batch size take together; default {SECONDS:g}",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any"
    )


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dense", metavar="RUN_DIR", type=Path, help="the run of a dense network to compare with"
    )
    parser.add_argument(
        "--dataset-root", metavar="PATH", help="where the data set is, if it has moved"
    )
    parser.add_argument(
        "--test-images",
        metavar="N",
        type=int,
        default=2000,
        help="how many accuracy is measured on, the same in every form; 0: all; default 2000",
    )


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", metavar="N", type=_positive, help="default: one per core")
    parser.add_argument(
        "--to",
        metavar="DIR",
        type=Path,
        help="where to write; default RUN_DIR/bench, of several runs results/bench/<date>/<time>",
    )
    parser.add_argument(
        "--figure-formats",
        choices=FIGURES,
        default="png",
        help="of the picture: " + "; ".join(f"{name}: {what}" for name, what in FIGURES.items()),
    )
    parser.add_argument("--force", action="store_true", help="overwrite an earlier measurement")


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
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number
