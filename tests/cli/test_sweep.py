"""Sweeps: finished runs are skipped, others resumed, and no failure stops another run."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from conftest import SMALL
from forked import Forked
from runs import rows

from refine.cli.compose import composed, workers
from refine.config import config_directory, fingerprint
from refine.training.device import gpu_of_ones_own

FAST = (*SMALL, "model=logistic", "dataset.image_size=8", "dataset.augment=none")
SWEEP = ("-m", *FAST, "schedule.interval=1", "pruner.ratio=0.1,0.3", "seed=1,2")
PNG = b"\x89PNG"
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def runs(place, holding="config.yaml"):
    """The runs' directories, by what they are named after, in the order of the alphabet."""
    found = {}
    for path in sorted(place.glob("*-*")):
        if (path / holding).exists():
            text = path.name.rpartition("-")[0]
            found[text] = path
    return found


def test_a_sweep_ends_in_a_table_and_a_figure(command, tmp_path):
    done = command(*SWEEP)
    assert (done.code, done.err) == (0, "")
    (place,) = (tmp_path / "results" / "sweeps").iterdir()
    assert place.name.startswith("pruner.ratio,seed-")
    assert set(runs(place)) == {
        f"pruner.ratio={ratio},seed={seed}" for ratio in (0.1, 0.3) for seed in (1, 2)
    }
    for directory in runs(place).values():
        config = composed(
            [*FAST, "schedule.interval=1", *directory.name.rpartition("-")[0].split(",")]
        )
        assert directory.name.endswith(f"-{fingerprint(config)}")
    assert "4 of 4" in done.out
    assert "pruner.ratio=0.3" in done.out
    with (place / "report.csv").open() as file:
        ends = [row for row in csv.DictReader(file) if row["cycles"] == "end"]
    assert [row["n"] for row in ends] == ["2", "2"]
    assert (place / "pareto.png").read_bytes()[:4] == PNG
    assert "epoch 2/2" in (next(iter(runs(place).values())) / "run.log").read_text()


def test_two_swept_settings_make_a_heat_map(command, tmp_path):
    done = command("-m", *FAST, "pruner.ratio=0.1,0.3", "schedule.interval=1,2", "output_dir=s")
    assert done.code == 0
    assert (tmp_path / "s" / "grid.png").read_bytes()[:4] == PNG


def test_started_again_it_skips_what_is_finished(command, tmp_path):
    command(*SWEEP)
    (place,) = (tmp_path / "results" / "sweeps").iterdir()
    before = {p: p.stat().st_mtime_ns for d in runs(place).values() for p in d.iterdir()}
    again = command(*SWEEP)
    assert again.code == 0
    assert "4 of them finished before" in again.out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    wider = command(*SWEEP[:-1], "seed=1,2,3")  # other values are the same sweep, wider
    assert wider.code == 0
    assert len(runs(place)) == 6
    assert {p: p.stat().st_mtime_ns for p in before} == before
    command(*SWEEP, "replay.steps=1")  # another sweep
    assert len(list((tmp_path / "results" / "sweeps").iterdir())) == 2


@posix
def test_preempted_and_started_again_it_is_as_if_it_had_not_been(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os, pathlib, signal\n"
        "from refine.pruning.importance import magnitude\n"
        "def score(model, batches):\n"
        "    marker = pathlib.Path('marker')\n"
        "    marker.write_text(marker.read_text() + '.' if marker.exists() else '.')\n"
        "    if len(marker.read_text()) == 2:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    return magnitude(model, batches)\n"
    )
    sweep = (*SWEEP, "pruner.importance=mine.score")
    stopped = command(*sweep, "output_dir=s")
    assert stopped.code == 75
    assert "Traceback" not in stopped.err
    assert 1 <= len(list((tmp_path / "s").glob("*/summary.json"))) < 4
    planned = command(*sweep, "output_dir=s", "sweep.dry_run=true")
    assert planned.code == 0
    for what in ("skip: finished", "resume: unfinished after epoch 1 of 2", "run "):
        assert what in planned.out
    assert command(*sweep, "output_dir=s").code == 0
    whole = command(*sweep, "output_dir=whole")
    assert whole.code == 0
    for name, directory in runs(tmp_path / "whole").items():
        assert list(rows(directory)) == list(rows(runs(tmp_path / "s")[name]))


def test_a_dry_run_writes_nothing(command, tmp_path):
    done = command(*SWEEP, "sweep.dry_run=true")
    assert done.code == 0
    assert done.out.count("│ run") == 4
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_is_told_recorded_and_stops_no_other(command, tmp_path):
    sweep = ("-m", *FAST, "trainer.optimizer.lr=1e39,0.001", "seed=1,2", "output_dir=s")
    done = command(*sweep)
    assert done.code == 1
    assert "Traceback" not in done.out + done.err
    assert done.out.count("FAILED") == 2
    assert "2 failed" in done.out
    assert done.out.index("FAILED") < done.out.index("lr=0.001")  # at once
    for name, directory in runs(tmp_path / "s").items():
        status = json.loads((directory / "summary.json").read_text())["status"]
        log = (directory / "run.log").read_text()
        assert ("finished" if "lr=0.001" in name else "failed") == status
        assert ("TrainingError" in log) == ("Traceback" in log) == (status == "failed")
    assert "test accuracy" in done.out  # the report of the others
    assert command(*sweep).code == 1  # tried again, and failed again


def test_a_run_that_fails_before_it_measured_anything_is_recorded_too(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def load(root, image_size):\n    raise FileNotFoundError(2, 'No such file', root)\n"
        "def leave(root, image_size):\n    raise SystemExit(3)\n"
    )
    done = command(
        "-m", *FAST, "dataset._target_=mine.load,mine.leave,refine.datasets.digits", "output_dir=s"
    )
    assert done.code == 1
    assert done.out.count("FAILED") == 2
    ends = {name: json.loads((path / "summary.json").read_text())["status"]
            for name, path in runs(tmp_path / "s", "run.log").items()}  # fmt: skip
    assert list(ends.values()) == ["failed", "failed", "finished"]
    for path in list(runs(tmp_path / "s", "run.log").values())[:2]:
        assert "Traceback" in (path / "run.log").read_text()


def test_every_value_is_checked_before_anything_is_run(command, tmp_path):
    done = command(*SWEEP[:-2], "pruner.ratio=0.1,1.5")
    assert done.code == 1
    assert "pruner.ratio: must be above 0 and below 1, not 1.5" in done.err
    assert list(tmp_path.iterdir()) == []
    done = command("-m", "pruner.ratio=interval(0.1,0.3)")
    assert (done.code, "refine-study" in done.err) == (1, True)


@pytest.mark.parametrize("values", ["seed=1,1", "device=auto,cpu", "seed=range(0)"])
def test_what_makes_no_sweep_is_named(command, tmp_path, values):
    done = command("-m", *FAST, values)
    assert done.code == 1
    assert len(done.err.strip().splitlines()) <= 2
    assert "refine-run -m" in done.err or "seed" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_below_a_directory_of_any_name(command, tmp_path):
    place = tmp_path / "what's this, [really] =1"
    done = command(*SWEEP[:-1], "seed=1", 'output_dir="what\'s this, [really] =1"')
    assert (done.code, done.err) == (0, "")
    assert len(runs(place)) == 2


def test_a_configuration_of_ones_own_is_swept(command, run, tmp_path):
    run(*FAST, "schedule.interval=1")
    done = command("-m", "--config-path", "run", "seed=1,2", "output_dir=s")
    assert (done.code, done.err) == (0, "")
    assert set(runs(tmp_path / "s")) == {"seed=1", "seed=2"}


def test_other_pictures_are_another_run():
    here, there = (
        [fingerprint(composed([f"dataset={name}", f"dataset.root={root}"])) for root in "ab"]
        for name in ("image_folder", "cifar10")
    )
    assert here[0] != here[1]
    assert there[0] == there[1]


@posix
def test_a_signal_after_the_last_step_still_ends_the_sweep(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import signal\n"
        "class Late:\n"
        "    def row(self, row, sparsities):\n"
        "        pass\n"
        "    def end(self, summary, figure_path):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
    )
    done = command(*SWEEP, "tracker._target_=mine.Late", "output_dir=s")
    assert done.code == 75
    assert len(list((tmp_path / "s").glob("*/summary.json"))) == 1


def test_a_finished_run_whose_table_is_lost_is_mended(command, tmp_path):
    command(*SWEEP, "checkpoint.keep=true", "output_dir=s")
    (directory, *_) = runs(tmp_path / "s").values()
    table = (directory / "metrics.csv").read_text()
    (directory / "metrics.csv").unlink()
    assert command(*SWEEP, "checkpoint.keep=true", "output_dir=s").code == 0
    assert (directory / "metrics.csv").read_text() == table


@pytest.mark.parametrize("place", ["output_dir=run", "output_dir=file", "output_dir=a/${seed}"])
def test_a_place_that_no_sweep_can_have_is_named(place, command, run, tmp_path):
    run(*FAST)
    (tmp_path / "file").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = command(*SWEEP, place)
    assert (done.code, "output_dir" in done.err) == (1, True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    done = command("hydra.mode=MULTIRUN", *SWEEP[1:])
    assert (done.code, "refine-run -m" in done.err) == (1, True)


def test_groups_and_globs_are_swept(command, tmp_path):
    done = command("-m", *FAST, "pruner=glob([m*,none])", "output_dir=s")
    assert done.code == 0
    assert set(runs(tmp_path / "s")) == {"pruner=magnitude", "pruner=none"}


def installed(extra):
    found = importlib.util.find_spec("hydra_plugins")
    found = found and importlib.util.find_spec(f"hydra_plugins.hydra_{extra}_launcher")
    return pytest.mark.skipif(not found, reason=f"{extra} is not installed")


@pytest.mark.long
@pytest.mark.parametrize("launcher", [
    pytest.param("joblib", marks=installed("joblib")),
    pytest.param("submitit_local", marks=installed("submitit")),
    pytest.param("ray", marks=[installed("ray"), pytest.mark.long]),
])  # fmt: skip
def test_launchers(launcher, tmp_path):
    done = refine(*SWEEP[:-1], "seed=1", f"hydra/launcher={launcher}", "output_dir=s", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2" in done.stdout
    assert "validated against" not in done.stderr
    directories = runs(tmp_path / "s")
    assert len(directories) == 2
    told = json.loads((next(iter(directories.values())) / "environment.json").read_text())
    if launcher == "joblib" and workers() > 1:  # the threads are divided among the runs
        assert int(told["device"].split(", ")[1].split()[0]) <= max(1, os.cpu_count() // workers())


@pytest.mark.long
@posix
@installed("joblib")
def test_a_worker_that_is_killed_costs_only_the_runs_that_it_was_at(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os, pathlib, signal\n"
        "from refine.pruning.importance import magnitude\n"
        "def score(model, batches):\n"
        "    marker = pathlib.Path('marker')\n"
        "    if not marker.exists():\n"
        "        marker.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return magnitude(model, batches)\n"
    )
    sweep = (*SWEEP, "pruner.importance=mine.score", "hydra/launcher=joblib", "output_dir=s")
    done = refine(*sweep, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "unfinished" in done.stdout
    again = refine(*sweep, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(runs(tmp_path / "s")) == 4
    for directory in runs(tmp_path / "s").values():
        assert json.loads((directory / "summary.json").read_text())["status"] == "finished"


def test_a_launcher_that_is_not_installed_is_named(command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = command(*SWEEP, "hydra/launcher=joblib")
    assert done.code == 1
    assert "pip install 'runtime-refinement[joblib]'" in done.err


def test_presets_are_there_for_all_launchers():
    names = {path.stem for path in (config_directory() / "hydra" / "launcher").glob("*.yaml")}
    assert names == {"joblib", "submitit_local", "submitit_slurm", "ray"}


def test_each_run_beside_others_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with gpu_of_ones_own("auto", tmp_path) as first, gpu_of_ones_own("auto", tmp_path) as second:
        assert (first, second) == ("cuda:0", "cuda:1")
        with gpu_of_ones_own("auto", tmp_path) as third, gpu_of_ones_own("cpu", tmp_path) as fourth:
            assert (third, fourth) == ("auto", "cpu")
    with gpu_of_ones_own("auto", tmp_path) as again:
        assert again == "cuda:0"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with gpu_of_ones_own("auto", tmp_path) as only:
        assert only == "auto"


def test_workers_are_gpus_where_there_are_some(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5")
    assert workers() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert workers() == cores


@posix
@pytest.mark.long
def test_two_starts_at_the_same_time_share_the_work(tmp_path):
    sweep = (*SWEEP, "trainer.epochs=20", "output_dir=s")
    processes = [start(*sweep, cwd=tmp_path) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in out + err
    assert refine(*sweep, cwd=tmp_path).returncode == 0
    for directory in runs(tmp_path / "s").values():
        assert len(list(rows(directory))) == 20 + 19  # every epoch and cycle once


@posix
def test_ctrl_c_ends_the_sweep_tidily(tmp_path):
    process = start(*SWEEP, "trainer.epochs=3000", "output_dir=s", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("s/*/metrics.csv")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    (directory,) = runs(tmp_path / "s").values()
    assert json.loads((directory / "summary.json").read_text())["status"] == "interrupted"


def start(*arguments, cwd):
    interrupts = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return Forked([*arguments], interrupts, cwd=cwd)


def refine(*arguments, cwd):
    """The command in a process of its own, from the beginning."""
    return subprocess.run(
        [sys.executable, "-m", "refine", "run", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
