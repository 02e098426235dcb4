import dataclasses
import json
import signal

import pandas as pd
import pytest
import torch
from conftest import SMALL, Quiet
from omegaconf import OmegaConf
from runs import fitting, rows

from refine.cli import run as cli
from refine.config import GROUPS, config_directory
from refine.errors import SettingError, Stop, TrainingError
from refine.records.rows import CycleRow, EpochRow
from refine.report.figure import draw_run

OPTIONS = [
    f"{group}={path.stem}"
    for group in GROUPS
    for path in sorted((config_directory() / group).glob("*.yaml"))
]
PUBLIC = ("cifar10", "cifar100", "fashion_mnist", "image_folder")  # data sets with files of theirs
PNG = b"\x89PNG"


STAGES = ["regularizer.start=0", "regularizer.stop=1", "schedule.start=1"]
# What else these need, in so small a run.
ASIDE = {
    "schedule=adaptive": ["dataset.validation_size=10"],
    "schedule=cyclic": ["regrowth=random", "schedule.period=2", "trainer.epochs=3"],
    "schedule=geometric": ["pruner.ratio=0.95"],
    "schedule=list": ["schedule.at=[1]", "schedule.sparsities=[0.5]"],
    "dataset=split": ["trainer.epochs=5"],
    "experiment=dense_vgg16": ["dataset.subset_size=20", "checkpoint.every=0"],
    "experiment=lamp_vgg16": ["dataset.subset_size=20", "checkpoint.every=0"],
    "experiment=regrowth_vgg16": [
        "dataset.subset_size=20", "checkpoint.every=0", "regrowth.source=null",
    ],
    "experiment=sparse_training": [*STAGES, "model=resnet20", "pruner.steps=10"],
    "experiment=sparse_training_small": STAGES,
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_every_file_of_the_configuration_runs(
    option, run, folder_of_digits, tmp_path, monkeypatch, request
):
    monkeypatch.chdir(tmp_path)  # MLflow's store is below it
    if option.startswith("dataset="):  # what a figure has in it depends on the data
        request.getfixturevalue("figures")
    if option.startswith("tracker="):
        pytest.importorskip(option.removeprefix("tracker="))
    overrides = [option, *SMALL, "dataset.subset_size=40", "replay.batch_size=5"]
    if option.removeprefix("dataset=") in PUBLIC or option.startswith("experiment="):
        overrides = [option, "dataset=image_folder", f"dataset.root={folder_of_digits}", *SMALL[1:]]
        overrides += ["dataset.subset_size=40", "schedule.stop=null"]
        assert cli.composed([option]).dataset._target_.startswith("refine.datasets.")
    if option in ("model=vgg16", "model=vgg19", "model=resnet18", "model=mobilenet_v2"):
        overrides += ["trainer.epochs=1", "dataset.subset_size=10"]
    if option.startswith("experiment="):
        held_out = 10 if option.endswith(("small", "vgg16")) else 0
        overrides += [f"dataset.validation_size={held_out}"]
    if option == "distillation=dense":
        teacher = run(*overrides[1:], "save_model=true", name="teacher")
        overrides += [f"distillation.source={teacher.directory}"]
    done = run(*fitting(*overrides, *ASIDE.get(option, ())))
    assert done.summary["status"] == "finished"
    assert done.summary["epochs"] == len([r for r in done.display.rows if isinstance(r, EpochRow)])
    if option.startswith("dataset="):
        assert (done.directory / "refinement.png").read_bytes()[:4] == PNG


def test_what_a_run_leaves(run, figures):
    done = run(*SMALL, "dataset.validation_size=40", "save_model=true", "trainer.epochs=3")
    files = {path.name for path in done.directory.iterdir()}
    assert files - {".lock"} == {
        "metrics.csv", "cycles.csv", "summary.json", "config.yaml", "environment.json", "run.log",
        "model.safetensors", "refinement.png", "network.json",
    }  # fmt: skip
    epochs = pd.read_csv(done.directory / "metrics.csv")
    own = [entry.name for entry in dataclasses.fields(EpochRow)]
    assert list(epochs) == own[: own.index("task")]
    assert epochs["epoch"].tolist() == [1, 2, 3]
    assert epochs["cycles"].tolist() == [0, 1, 2]
    assert epochs["active_parameters"].tolist() == [582_346, 495_085, 420_914]
    for column in ("train_accuracy", "test_accuracy", "validation_accuracy", "sparsity"):
        assert epochs[column].between(0, 1).all()
    assert (1 - epochs["active_parameters"] / epochs["total_parameters"]).tolist() == (
        pytest.approx(epochs["sparsity"].tolist())
    )
    cycles = pd.read_csv(done.directory / "cycles.csv")
    own = [entry.name for entry in dataclasses.fields(CycleRow)]
    assert list(cycles) == own[: own.index("channels")]
    assert cycles["cut_weights"].tolist() == [87_261, 74_171]
    assert sum(json.loads(cycles["cut_by_tensor"][0]).values()) == 87_261
    assert cycles["test_accuracy_before"].tolist() == epochs["test_accuracy"].tolist()[:2]
    summary = json.loads((done.directory / "summary.json").read_text())
    assert summary == done.summary
    assert summary["test_accuracy"] == epochs["test_accuracy"].iloc[-1]
    environment = json.loads((done.directory / "environment.json").read_text())
    assert environment["torch"] == torch.__version__.partition("+")[0]


def test_without_a_validation_split_there_are_no_columns_for_it(run):
    header = (run(*SMALL).directory / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "epoch,train_loss,train_accuracy,test_loss,test_accuracy,sparsity,prunable_sparsity,"
        "active_parameters,total_parameters,learning_rate,cycles,epoch_seconds"
    )


def test_the_same_seed_gives_the_same_tables_and_weights(run):
    overrides = [*SMALL, "dataset.augment=crop_flip", "save_model=true"]
    first, second = run(*overrides, name="a"), run(*overrides, name="b")
    assert list(rows(first.directory)) == list(rows(second.directory))
    weights = [(done.directory / "model.safetensors").read_bytes() for done in (first, second)]
    assert weights[0] == weights[1]
    other = run(*overrides, "seed=7", name="c")
    assert list(rows(first.directory)) != list(rows(other.directory))


def test_a_runs_own_configuration_gives_the_same_run(run, command, tmp_path):
    first = run(*SMALL, "pruner.ratio=0.3", "replay=uniform")
    done = command("--config-path", "run")
    assert (done.code, done.err) == (0, "")
    (again,) = (tmp_path / "results" / "runs").glob("*/*")
    assert list(rows(first.directory)) == list(rows(again))


def test_saved_weights_are_those_of_the_refined_network(run):
    from safetensors.torch import load_file

    done = run(*SMALL, "save_model=true", "schedule.stop=2")
    weights = load_file(done.directory / "model.safetensors")
    cut = sum(int((value == 0).sum()) for name, value in weights.items() if name.endswith("weight"))
    assert cut == 582_346 - done.summary["active_parameters"] == 87_261 + 74_171


def test_a_cycle_after_the_last_epoch_has_the_last_word(run):
    once = ("schedule=one_shot", "schedule.start=2", "schedule.stop=2")
    done = run(*fitting(*SMALL, *once))
    cycle = done.display.rows[-1]
    assert isinstance(cycle, CycleRow)
    assert done.summary["test_accuracy"] == cycle.test_accuracy_after_replay
    assert done.summary["active_parameters"] == cycle.active_parameters == 495_085


def test_the_control_without_a_cut_replays_all_the_same(run):
    done = run(*SMALL, "pruner=none")
    cycle = done.display.rows[1]
    assert (cycle.cut_weights, cycle.replay_steps) == (0, 2)
    assert done.summary["sparsity"] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions(run, precision):
    done = run(*SMALL, f"trainer.precision={precision}")
    environment = json.loads((done.directory / "environment.json").read_text())
    assert environment["precision"] == precision
    assert done.summary["active_parameters"] == 495_085


def test_training_learns(run):
    done = run(
        "dataset.subset_size=600", "dataset.image_size=16", "trainer.epochs=3",
        "schedule.interval=1",
    )  # fmt: skip
    assert done.summary["test_accuracy"] > 0.85  # chance: 0.1


@pytest.mark.parametrize("per", ["batch", "epoch"])
def test_the_learning_rates_schedule_spans_the_run_and_replay_does_not_move_it(run, per):
    node = "trainer.lr_scheduler"
    done = run(
        *SMALL, "trainer.epochs=4", f"{node}._target_=torch.optim.lr_scheduler.LinearLR",
        f"{node}.per={per}", f"+{node}.start_factor=1", f"+{node}.end_factor=0.2",
        f"+{node}.total_iters=total", f"~{node}.factor",
    )  # fmt: skip
    rates = [row.learning_rate for row in done.display.rows if isinstance(row, EpochRow)]
    # 4 batches an epoch; a row has the rate of the epoch's last step
    done_shares = [0, 0.25, 0.5, 0.75] if per == "epoch" else [3 / 16, 7 / 16, 11 / 16, 15 / 16]
    assert rates == pytest.approx([0.001 * (1 - 0.8 * share) for share in done_shares])


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was_recorded(run, tmp_path, figures):
    with pytest.raises(TrainingError, match="epoch 1, step 2"):
        run(*SMALL, "trainer.optimizer.lr=1e30")
    assert not (tmp_path / "run").exists()

    class Spoiling(Quiet):
        def show(self, row):
            raise TrainingError("the loss is no longer a number in epoch 2, step 1")

    with pytest.raises(TrainingError):
        run(*SMALL, display=Spoiling())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("failed", 1)
    assert "epoch 2, step 1" in summary["reason"]
    assert (tmp_path / "run" / "refinement.png").is_file()


def test_weights_that_are_no_numbers_after_the_last_step_end_the_run(run, tmp_path):
    with pytest.raises(TrainingError, match="no longer finite after epoch 1"):
        run(*SMALL, "trainer.optimizer.lr=1e38", "trainer.batch_size=2000", "trainer.epochs=1")
    assert not (tmp_path / "run").exists()


def test_a_run_stopped_inside_a_cycle_tells_of_the_network_as_it_is(run, tmp_path, monkeypatch):
    def interrupted(self, batches):
        raise KeyboardInterrupt

    monkeypatch.setattr("refine.replay.steps.ReplaySteps.on", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*SMALL, "save_model=true")
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "run" / "model.safetensors")
    cut = sum(int((value == 0).sum()) for name, value in weights.items() if name.endswith("weight"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["active_parameters"] == 582_346 - cut == 495_085


def test_ctrl_c_while_a_row_is_written_comes_after_it(run, tmp_path, monkeypatch):
    from refine.records.directory import RunDirectory

    record = RunDirectory.record

    def interrupted(self, row):
        record(self, row)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunDirectory, "record", interrupted)
    with pytest.raises(Stop, match="interrupted"):
        run(*SMALL)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("interrupted", 1)
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 2


def test_a_directory_of_other_files_is_left_as_it_is(tmp_path, run):
    (tmp_path / "run").mkdir()
    with pytest.raises(SettingError):
        run(*SMALL, "dataset=image_folder", f"dataset.root={tmp_path / 'none'}")
    assert (tmp_path / "run").is_dir()
    assert list((tmp_path / "run").iterdir()) == []


def test_whatever_stops_a_run_keeps_what_was_recorded(run, tmp_path):
    class Breaking(Quiet):
        def show(self, row):
            raise MemoryError("no more of it")

    with pytest.raises(MemoryError):
        run(*SMALL, display=Breaking())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("failed", "no more of it")
    log = (tmp_path / "run" / "run.log").read_text()
    assert "Traceback" in log
    assert "MemoryError" in log


def test_a_run_directory_is_never_taken_over(run, tmp_path):
    run(*SMALL, "trainer.epochs=1")
    with pytest.raises(SettingError, match="exists and is not empty"):
        run(*SMALL)
    (tmp_path / "empty").mkdir()
    run(*SMALL, "trainer.epochs=1", name="empty")


def test_the_figure_is_drawn_from_the_csv_alone(run):
    directory = run(*SMALL).directory
    for path in directory.iterdir():
        if path.name != "metrics.csv":
            path.unlink()
    assert draw_run(directory).read_bytes()[:4] == PNG


def test_real_pictures(run, cifar10):
    done = run(
        "experiment=paper", "dataset=image_folder", f"dataset.root={cifar10}",
        "dataset.subset_size=500", "trainer.epochs=4", "schedule.interval=1",
    )  # fmt: skip
    assert done.summary["active_parameters"] == 357_868
    assert done.summary["test_accuracy"] > 0.15  # chance: 0.1
    cycles = [row for row in done.display.rows if isinstance(row, CycleRow)]
    assert [round(100 * cycle.sparsity, 1) for cycle in cycles] == [15.0, 27.7, 38.5]


def test_the_papers_setting_is_the_papers():
    config = cli.composed(["experiment=paper"])
    chosen = OmegaConf.to_container(config)
    assert chosen["dataset"]["subset_size"] == 10_000
    assert (chosen["trainer"]["epochs"], chosen["schedule"]["interval"]) == (20, 5)
    assert (chosen["pruner"]["ratio"], chosen["pruner"]["allocation"]) == (0.15, "layerwise")
    replay = {
        "selection": "high_loss", "storage": "highest", "sampling": "shuffled",
        "buffer_size": 1000, "steps": 30, "batch_size": 128,
    }  # fmt: skip
    assert chosen["replay"] | replay == chosen["replay"]
    apart = ("distillation.teacher", "recovery.curve", "cache.kind", "dataset.split")
    assert [OmegaConf.select(config, name) for name in apart] == ["none"] * 4
