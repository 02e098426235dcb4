import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from conftest import ROOT, SMALL
from forked import Forked

from refine import config
from refine.cli.help import help_text
from refine.cli.run import composed
from refine.config import settings


def subcommand(*arguments, cwd, code=None, **environment):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, *(["-c", code] if code else ["-m", "refine", "run"]), *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            "pruner.ratoi=0.2",
            "pruner.ratoi: there is no such setting; did you mean pruner.ratio=0.2?",
        ),
        ("modle=resnet18", "modle: there is no such setting; did you mean model=resnet18?"),
        ("model=resnet19", "model: there is no 'resnet19'; did you mean resnet18?"),
        ("+pruner.x=1", "pruner.x: there is no such setting"),
        ("+foo=1", "foo: there is no such setting"),
        ("pruner.ratio=2", "pruner.ratio: must be above 0 and below 1, not 2"),
        ("pruner.ratio=0", "pruner.ratio: must be above 0 and below 1, not 0"),
        ("pruner.layers={nope:0.3}", "pruner.layers: no prunable layer matches 'nope'"),
        ("pruner.layers={fc1:2}", "pruner.layers: gives globs shares from 0 to below 1"),
        ("pruner.granularity=n_m pruner.n=4", "0 < n < m, not n=4 and m=4"),
        ("pruner.granularity=n_m pruner.allocation=lamp", "already every layer's share"),
        ("pruner.importance=similarity", "its scores are of filters"),
        ("regrowth=random pruner.granularity=filter", "regrowth: returns single weights"),
        ("regrowth=random regrowth.allocation=controller", "uses validation accuracy"),
        ("schedule=cyclic", "set regrowth="),
        ("schedule=adaptive", "dataset.validation_size: schedule=adaptive uses"),
        ("schedule=geometric trainer.epochs=3", "is not reached by 2 cycles"),
        ("schedule=list schedule.at=[3,2,1]", "schedule.at: must rise"),
        ("start_from=nowhere", "start_from: cannot read nowhere"),
        ("regrowth=saliency regrowth.source=nowhere", "regrowth.source: cannot read nowhere"),
        ("pruner.ratio=nan", "pruner.ratio: must be above 0 and below 1, not nan"),
        ("pruner.ratio=much", "pruner.ratio: must be a number, not 'much'"),
        ("pruner.importance=taylr", "pruner.importance: there is no 'taylr'; did you mean taylor?"),
        ("pruner.importance=os.nothing", "pruner.importance: cannot import 'os.nothing'"),
        ("pruner=magnitude,random", "refine-run -m pruner=magnitude,random"),
        ("schedule.interval=0", "schedule.interval: must be at least 1, not 0"),
        ("schedule.interval=2.5", "schedule.interval: must be a whole number, not '2.5'"),
        ("schedule=one_shot schedule.start=99", "schedule.start: must be at most 20"),
        ("trainer.epochs=null", "trainer.epochs: cannot be null"),
        ("trainer.precision=fp16", "trainer.precision: fp16 needs CUDA"),
        ("trainer.optimizer.momentum=1", "write +trainer.optimizer.momentum="),
        ("+trainer.optimizer.momentum=1", "trainer.optimizer: torch.optim.Adam refuses"),
        ("trainer.optimizer._target_=torch.optim.Adm", "trainer.optimizer._target_: cannot import"),
        ("trainer.lr_scheduler.per=week", "trainer.lr_scheduler.per: must be batch or epoch"),
        ("dataset=image_folder dataset.root=nowhere", "dataset.root: there is no directory"),
        ("dataset.subset_size=1438", "dataset.subset_size: 1,438 is more than the 1,437"),
        ("dataset.validation_size=1437", "dataset.validation_size: 1,437 of 1,437 leaves nothing"),
        ("output_dir=/dev/null/run", "output_dir: /dev/null/run"),
        ("device=cuda:99", "device: cuda:99 was asked for and this machine has"),
        ("device=gpu", "device: 'gpu' is none of auto, cpu"),
        ("+model.num_classes=5", "model: gives (2, 5) for 2 images; 10 classes need (2, 10)"),
        ("model._target_=torch.nn.Linear", "model: torch.nn.Linear refuses its settings"),
        ("model._target_=builtins.dict", "model._target_: builtins.dict made no nn.Module"),
        ("dataset.image_size=2", "images must be at least 4x4"),
        ("experiment=papr", "experiment: there is no 'papr'; did you mean paper?"),
        ("seed=-1", "seed: must be at least 0"),
        (f"seed={2**64}", "seed: must be at least 0 and at most 9.22337e+18"),
        ("schedule.stop=30", "schedule.stop: must be at most 20"),
        ("pruner=null", "pruner: there is no 'null'; known: magnitude, none, random"),
        ("model=5", "model: there is no '5'; known: logistic"),
        ("trainer.optimizer._target_=torch.optim.LBFGS ~trainer.optimizer.weight_decay", "closure"),
        (
            "trainer.lr_scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau "
            "~trainer.lr_scheduler.factor",
            "is steered by a metric",
        ),
        ("+trainer.optimizer.betas=[0.9]", "trainer.optimizer: torch.optim.Adam refuses"),
        ("model._target_=torchvision.models.googlenet", "heads out with +model.aux_logits=false"),
        (
            "model=vgg16 dataset.image_size=16 trainer.batch_size=1 dataset.subset_size=4",
            "model: cannot be trained",
        ),
        (
            "dataset._target_=builtins.dict",
            "dataset._target_: builtins.dict returned",
        ),
        (f"output_dir={'a' * 300}", "cannot be made"),
        ("output_dir='~no-such-user/x'", "cannot be made"),
        (f"-m seed=1,2 output_dir={'a' * 300}", "File name too long"),
        ("-m pruner.ratio=0.1,1.5", "pruner.ratio: must be above 0 and below 1, not 1.5"),
        ("--config-path nowhere", "nowhere"),
        ("pruner.ratio=[", "pruner.ratio=["),
        ("--help foo=1", "foo: there is no such setting"),
        ("--config-path=nowhere", "nowhere"),
    ],
)
def test_a_mistake_is_named_in_two_lines_and_leaves_nothing(command, overrides, says, tmp_path):
    done = command(*overrides.split())
    assert done.code == 1
    assert says in done.err
    assert 1 <= len(done.err.strip().splitlines()) <= 2
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_the_mistakes_traceback_is_there_for_who_asks(tmp_path):
    done = subcommand("pruner.ratio=2", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_download_that_cannot_be_made_is_explained(command, tmp_path, monkeypatch):
    nobody = "http://127.0.0.1:9"  # the discard port, where nothing answers
    for name in ("https_proxy", "http_proxy"):
        monkeypatch.setenv(name, nobody)
    done = command("dataset=cifar10")
    assert done.code == 1
    assert "cifar-10-python.tar.gz" in done.err
    assert "dataset=image_folder" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_setting_group_and_choice(command):
    done = command("--help")
    assert done.code == 0
    for name, _ in settings():
        assert name in done.out
    for group in config.GROUPS:
        for path in (config.config_directory() / group).glob("*.yaml"):
            assert re.search(rf"^  {group}={path.stem}\b", done.out, re.MULTILINE)
    assert done.out.count("\n  refine-run") == 9
    assert "model._target_=refine.models.resnet18" in help_text(composed(["model=resnet18"]))


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_questions_are_answered_without_torch(arguments, tmp_path):
    code = "import sys; from refine.cli.run import main; main(); assert 'torch' not in sys.modules"
    done = subcommand(*arguments, cwd=tmp_path, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.15" in done.stdout


def test_off_a_terminal_there_is_a_line_for_each_epoch_and_cycle(tmp_path):
    done = subcommand(*SMALL, "output_dir=here/run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 2
    assert sum(line.startswith("cycle ") for line in lines) == 1
    assert "\x1b" not in done.stdout
    assert "495,085 active of 582,346" in done.stdout
    assert "here/run/metrics.csv" in done.stdout
    assert "here/run/refinement.png" in done.stdout
    log = (tmp_path / "here" / "run" / "run.log").read_text()
    assert log.count("epoch ") >= 2
    assert "cycle 1 after epoch 1" in log


def test_a_sweep_runs_every_combination(command, tmp_path):
    done = command(
        "-m", *SMALL, "trainer.epochs=1", "model=logistic", "pruner.ratio=0.1,0.2", "seed=1,2",
        "output_dir=sweep",
    )  # fmt: skip
    assert done.code == 0
    summaries = list((tmp_path / "sweep").rglob("summary.json"))
    assert len(summaries) == 4
    names = [path.parent.name for path in summaries]
    assert {path.parent.parent for path in summaries} == {tmp_path / "sweep"}
    for ratio in (0.1, 0.2):
        for seed in (1, 2):
            assert sum(f"ratio={ratio}" in name and f"seed={seed}" in name for name in names) == 1


def test_ones_own_model_data_and_importance_are_found_beside_one(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from refine.datasets.images import Images, RawData\n"
        "def net(width, num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, width),\n"
        "                               torch.nn.Linear(width, num_classes))\n"
        "def images(root, image_size):\n"
        "    pixels = torch.randint(256, (60, 4, 4, 3), dtype=torch.uint8)\n"
        "    part = Images(pixels, torch.arange(60) % 3)\n"
        "    return RawData(part, part, ['a', 'b', 'c'])\n"
        "def score(model, batches):\n"
        "    return {n: torch.arange(float(p.numel())).view(p.shape)\n"
        "            for n, p in model.named_parameters()}\n"
    )
    done = command(
        "model._target_=mine.net", "+model.width=5", "dataset._target_=mine.images",
        "pruner.importance=mine.score", "trainer.epochs=2", "schedule.interval=1",
        "replay.steps=1", "output_dir=out",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert (weights["1.weight"].flatten()[:36] == 0).all()  # 15 % of 240: the first 36
    assert (weights["1.weight"].flatten()[36:] != 0).all()
    assert "net on images" in (tmp_path / "out" / "run.log").read_text()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_what_was_done(tmp_path):
    interrupts = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = Forked([*SMALL, "trainer.epochs=5000", "output_dir=run"], interrupts, cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        metrics.is_file() and metrics.read_text().count("\n") > 3
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["epochs"] == metrics.read_text().count("\n") - 1 >= 3
    assert (tmp_path / "run" / "refinement.png").is_file()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_after_the_end_finds_nothing_to_stop(tmp_path):
    late = """
import atexit, os, signal
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
from refine.cli.run import main
main()
"""
    done = subcommand(*SMALL, "output_dir=run", cwd=tmp_path, code=late)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"


def test_the_benchmark_prints_its_ratios(tmp_path):
    script = ROOT / "scripts" / "benchmark_training.py"
    done = subprocess.run(
        [sys.executable, str(script), "--rounds", "1", "--images", "256"],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for part in ("train and evaluate:", "cut (score, allocate, mask):", "keeping cut weights"):
        assert part in done.stdout


@pytest.mark.long
def test_a_reader_that_has_seen_enough_and_poor_letters_cost_nothing(tmp_path):
    """``PYTHONIOENCODING=ascii refine-run ... | head -1``, of a run and of a sweep."""
    poor = os.environ | {"PYTHONIOENCODING": "ascii", "LANG": "C"}
    for several in ([], ["-m", "seed=1,2"]):
        place = tmp_path / f"ünï-{len(several)}"
        command = [sys.executable, "-m", "refine", "run", *several, *SMALL, f"output_dir={place}"]
        process = subprocess.Popen(
            command, env=poor, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        assert (process.wait(timeout=300), said) == (0, b"")
        assert len(list(place.rglob("summary.json"))) == max(1, len(several))
