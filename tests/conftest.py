"""What the tests share: the command in this process, small runs, and real pictures where there
are any."""

import functools
import gc
import os
import signal
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra
from recorded import record, sweep
from runs import ROOT, digits_folder

from refine import datasets, experiment
from refine.cli import run as cli
from refine.cli.compose import tried
from refine.errors import Stop
from refine.process import SIGNALS
from refine.report.display import Display
from refine.report.figure import draw_run
from refine.report.terminal import LogOnly
from refine.training.step import Stepper

CIFAR10 = ROOT.parent / "shared" / "cifar10"
# A run of half a second: few images, few epochs, every part of the cycle. Where the accuracy is
# the subject, dataset.test_size=0 tests on all images.
SMALL = (
    "dataset.subset_size=200",
    "dataset.test_size=20",
    "trainer.epochs=2",
    "trainer.batch_size=50",
    "schedule.interval=1",
    "replay.buffer_size=40",
    "replay.steps=2",
    "replay.batch_size=20",
    "save_model=false",
)


@pytest.fixture(scope="session", autouse=True)
def quick_runs():
    """Runs in this process leave out what takes longer than a small run: drawing the figure,
    reading and resizing the digits each time, and waiting until files are on the disk itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "draw_run", lambda directory, *_: None)
        once = functools.cache(datasets.digits)
        digits = functools.wraps(datasets.digits)(lambda *given, **named: once(*given, **named))
        patch.setattr(datasets, "digits", digits)
        patch.setattr(os, "fsync", lambda file: None)
        gc.freeze()  # garbage is not looked for among all that was imported
        yield


@pytest.fixture
def figures(monkeypatch):
    """Runs draw their figure, for a test that looks at it."""
    monkeypatch.setattr(experiment, "draw_run", draw_run)


# What tests give all of their runs, although some have no replay.
SHARED = (
    "replay.steps", "replay.buffer_size", "replay.batch_size", "replay.vae.training_steps",
    "pruner.steps", "output_dir",
)  # fmt: skip


class Quiet(Display):
    """A display that shows nothing and remembers the rows."""

    def __init__(self):
        self.rows = []

    def begin(self, headline, ahead):
        self.headline = headline

    def show(self, row):
        self.rows.append(row)


def run_in(directory, *overrides, display=None, in_vain=()):
    """Runs the overrides in this process: the summary, the rows and the directory. Settings without
    effect are refused, but those that tests share and those ``in_vain``."""
    display = display or Quiet()
    config, idle = tried([*overrides, f"output_dir={directory}"])
    for name, error in idle.items():
        if name not in (*SHARED, *in_vain):
            raise error
    LogOnly()  # in place of an earlier command's terminal, which has gone
    summary = experiment.run(config, display)
    return SimpleNamespace(summary=summary, display=display, directory=directory)


@pytest.fixture
def run(tmp_path):
    """Runs the overrides in a directory of that name."""

    def call(*overrides, name="run", display=None, in_vain=()):
        return run_in(tmp_path / name, *overrides, display=display, in_vain=in_vain)

    return call


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Runs the overrides as ``run`` does, but only once for all tests, which just read it."""

    @functools.cache
    def call(*overrides):
        return run_in(tmp_path_factory.mktemp("undisturbed") / "run", *overrides)

    return call


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """``refine-run`` with these arguments, in this process and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's
    monkeypatch.setenv(cli.FULL_ERROR, "0")  # main changes it; this takes that back

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["refine-run", *arguments])
        GlobalHydra.instance().clear()
        code = 0
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            GlobalHydra.instance().clear()
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory):
    """600 training and 200 test pictures of CIFAR-10 in class folders."""
    if not CIFAR10.is_dir():
        pytest.skip(f"no CIFAR-10 in {CIFAR10}")
    home = tmp_path_factory.mktemp("pictures")
    for archive, count in (("train-1of5", 60), ("test", 20)):
        taken = {}
        with tarfile.open(CIFAR10 / f"{archive}.tar.gz") as tar:
            for member in tar:
                label = Path(member.name).parent.name
                if member.isfile() and taken.setdefault(label, 0) < count:
                    taken[label] += 1
                    tar.extract(member, home, filter="data")
                if len(taken) == 10 and min(taken.values()) == count:
                    break
    return home / "cifar10"


@pytest.fixture
def two(tmp_path):
    sweep(tmp_path / "runs" / "a", pruner__ratio=0.1)
    record(tmp_path / "runs" / "b", 0.8, pruner__ratio=0.2)
    return tmp_path / "runs"


@pytest.fixture
def swept(tmp_path):
    for ratio in (0.1, 0.2):
        for interval in (2, 10):
            for seed in (1, 2):
                if (ratio, interval) != (0.2, 10):
                    place = tmp_path / "sweep" / f"{ratio},{interval},{seed}"
                    accuracy = 0.9 - ratio - 0.01 * interval + 0.02 * seed
                    kinds = {"pruner__ratio": ratio, "schedule__interval": interval}
                    record(place, accuracy, seed, **kinds)
    return tmp_path / "sweep"


@pytest.fixture(scope="session")
def folder_of_digits(tmp_path_factory):
    return digits_folder(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def stopped_and_resumed(run, undisturbed, tmp_path, monkeypatch):
    """A run whole, and once stopped in that step and resumed; both directories."""

    def call(number, *settings):
        whole = undisturbed(*settings).directory
        step, taken = Stepper.__call__, []

        def counting(self, *batch):
            taken.append(1)
            if len(taken) == number:
                signal.raise_signal(signal.SIGTERM)
            return step(self, *batch)

        monkeypatch.setattr(Stepper, "__call__", counting)
        with pytest.raises(Stop):
            run(*settings, name="stopped")
        monkeypatch.setattr(Stepper, "__call__", step)
        stopped = tmp_path / "stopped"
        run(*settings, f"resume={stopped}", name="stopped")
        return whole, stopped

    return call
