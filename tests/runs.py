"""What several tests ask of the files of a run, and how they start a script."""

import contextlib
import csv
import io
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refine.cli.compose import composed
from refine.config.rules import broken
from refine.report.terminal import LogOnly

ROOT = Path(__file__).parent.parent


def rows(directory, *names):
    """The rows of the tables, by default of both, times apart."""
    found = []
    for name in names or ("metrics.csv", "cycles.csv"):
        with (directory / name).open(encoding="utf-8") as file:
            found += [
                {key: value for key, value in row.items() if "seconds" not in key}
                for row in csv.DictReader(file)
            ]
    return found


def same(whole, stopped):
    """Whether two runs left the same tables and networks."""
    weights = [(place / "model.safetensors").read_bytes() for place in (whole, stopped)]
    return weights[0] == weights[1] and rows(whole) == rows(stopped)


def fitting(*overrides):
    """``overrides`` without the settings that their schedule does not have."""
    chosen = [o for o in overrides if o.startswith(("schedule=", "experiment=", "control="))]
    own = composed(chosen).schedule
    names = [override.partition("=")[0].removeprefix("schedule.") for override in overrides]
    return [
        override
        for override, name in zip(overrides, names, strict=True)
        if not override.startswith("schedule.") or name in own
    ]


def refused(importance, allocation, granularity, n=2, m=4):
    """What is said of a pruner with these; None if they go together."""
    names = {"importance": importance, "allocation": allocation, "granularity": granularity}
    config = composed([])
    config.pruner.update({**names, "n": n, "m": m})
    return broken(config)


def as_before(run, place):
    """A copy of a run whose network's file says nothing but its tensors, as in version 0.1.0."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(run, place)
    save_file(load_file(place / "model.safetensors"), place / "model.safetensors")
    return place


def script(name, *arguments, cwd):
    """A file of scripts/ in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip


def script_here(name, *arguments, cwd):
    """A file of scripts/ in this process, which has imported what it needs; one run after the
    other, without their figures."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    known = {*sys.modules}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd)
        patch.syspath_prepend(ROOT / "scripts")
        patch.setattr(sys, "argv", [name, *arguments])
        try:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
            if isinstance(code, str):
                print(code, file=err)
                code = 1
    for module in {*sys.modules} - known:
        if (ROOT / "scripts" / f"{module}.py").exists():
            del sys.modules[module]
    LogOnly()  # in place of the script's terminal, which has gone
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def digits_folder(home):
    """Writes 40 + 20 digits as pictures in class folders below ``home``."""
    from PIL import Image

    from refine.datasets import digits

    data = digits("", 32)
    for part, images, count in (("train", data.train, 40), ("test", data.test, 20)):
        for number in range(10):
            (home / part / str(number)).mkdir(parents=True)
            of_class = images.pixels[images.labels == number][: count // 10]
            for index, pixels in enumerate(of_class):
                Image.fromarray(pixels.numpy()).save(home / part / str(number) / f"{index}.png")
    return home
