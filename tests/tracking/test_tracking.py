import json
import logging
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from conftest import SMALL, Quiet

from refine.cli import run as cli
from refine.errors import SettingError, Stop
from refine.records.rows import CycleRow, EpochRow
from refine.tracking.labels import numbers
from refine.tracking.safe import SafeTracker

pytestmark = pytest.mark.usefixtures("figures")  # a tracker is given the figure
TINY = (*SMALL, "model=logistic", "dataset.subset_size=40", "replay.batch_size=5")
EPOCHS = {  # how some columns of metrics.csv are called elsewhere
    "loss/train": "train_loss",
    "accuracy/test": "test_accuracy",
    "sparsity/all": "sparsity",
    "sparsity/prunable": "prunable_sparsity",
    "learning_rate": "learning_rate",
}
WEIGHT = "1.weight"  # of model=logistic, its only prunable tensor
MASKS = {WEIGHT: torch.tensor([True, False, True, True])}


def epoch_row(epoch, **changes):
    return EpochRow(
        **{
            "epoch": epoch, "train_loss": 0.5, "train_accuracy": 0.5, "test_loss": 0.5,
            "test_accuracy": 0.5, "sparsity": 0.25, "prunable_sparsity": 0.25,
            "active_parameters": 3, "total_parameters": 4, "learning_rate": 0.1, "cycles": 0,
            "epoch_seconds": 1.0,
        }
        | changes
    )  # fmt: skip


def cycle_row(epoch):
    return CycleRow(
        cycle=1, epoch=epoch, ratio=0.25, cut_weights=1, cut_by_tensor="{}", sparsity=0.25,
        prunable_sparsity=0.25, active_parameters=3, total_parameters=4, test_accuracy_before=0.5,
        test_accuracy_after_cut=0.4, test_accuracy_after_replay=0.6, replay_steps=0,
        replay_loss=None, importance_seconds=0.1, downscale_seconds=0.1, cut_seconds=0.1,
        replay_seconds=0.0,
    )  # fmt: skip


def safe_tracker(directory, *overrides, start_epoch=0):
    directory.mkdir(exist_ok=True)
    return SafeTracker(cli.composed(list(overrides)), directory, start_epoch)


@pytest.fixture
def warned():
    """The warnings of a run."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(lambda record: record.levelno == logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("refine").addHandler(handler)
    yield messages
    logging.getLogger("refine").removeHandler(handler)


# What does a tracker receive?


def test_every_number_has_one_name_and_epochs_and_cycles_share_none():
    epoch = numbers(epoch_row(3, validation_loss=0.7), {WEIGHT: 0.5})
    assert epoch["loss/validation"] == 0.7
    assert epoch[f"layer_sparsity/{WEIGHT}"] == 0.5
    assert "accuracy/validation" not in epoch  # None
    received = {name for name, value in asdict(epoch_row(3)).items() if value is not None}
    assert len(epoch) == len(received - {"epoch"}) + 2
    cycle = numbers(cycle_row(3), {WEIGHT: 0.25})
    assert cycle["cycle/test_accuracy_after_replay"] == 0.6
    assert cycle[f"layer_sparsity_after_cycle/{WEIGHT}"] == 0.25
    assert not {*epoch} & {*cycle}


def test_a_users_own_tracker_gets_what_its_signature_names(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "received = []\n"
        "class Diary:\n"
        "    def __init__(self, directory, project, colour):\n"
        "        received.append((directory, project, colour))\n"
        "    def row(self, row, sparsities):\n"
        "        received.append((row, sparsities))\n"
        "    def end(self, summary, figure_path):\n"
        "        received.append((summary, figure_path.read_bytes()[:4]))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's
    done = run(
        *TINY, "tracker._target_=mine.Diary", "+tracker.colour=red", "tracker.project=tulips"
    )
    import mine

    (first, *rows, last) = mine.received
    assert first == (done.directory, "tulips", "red")
    assert [row for row, _ in rows] == done.display.rows
    assert [shares[WEIGHT] for _, shares in rows] == [
        pytest.approx(row.prunable_sparsity) for row in done.display.rows
    ]
    assert rows[-1][1][WEIGHT] > 0.1
    assert last == (done.summary, b"\x89PNG")


# What if a tracker cannot be used?


@pytest.mark.parametrize("option", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_named_before_anything_is_written(
    option, command, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, option, None)
    for module in (f"refine.tracking.{option}", f"torch.utils.{option}"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    done = command(*TINY, f"tracker={option}", "output_dir=run")
    assert (done.code, done.err) == (
        1,
        f"refine-run: tracker: {option} is not installed; "
        f"pip install 'runtime-refinement[{option}]'\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("tracker=wandb tracker.mode=onlin", "tracker.mode: there is no 'onlin'; did you mean"),
        ("tracker=null", "tracker: there is no 'null'; known: csv, mlflow, tensorboard, wandb"),
        ("tracker.projcet=x", "tracker.projcet: there is no such setting; did you mean tracker.pr"),
        ("+tracker.projcet=x", "tracker.projcet: there is no such setting; did you mean project?"),
        ("tracker._target_=mine.Nothing", "tracker._target_: cannot import 'mine.Nothing'"),
    ],
)
def test_a_mistake_in_a_trackers_setting_is_named(overrides, says, command, tmp_path):
    done = command(*overrides.split())
    assert done.code == 1
    assert says in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["__init__", "row", "end"])
def test_a_tracker_that_fails_is_not_called_again_and_the_run_continues(
    moment, run, tmp_path, monkeypatch, warned
):
    (tmp_path / "mine.py").write_text(
        "called = []\n"
        "class Failing:\n"
        "    def __init__(self): self.note('__init__')\n"
        "    def row(self, row, sparsities): self.note('row')\n"
        "    def end(self, summary, figure_path): self.note('end')\n"
        "    def note(self, moment):\n"
        "        called.append(moment)\n"
        f"        if moment == {moment!r}: raise OSError('no server')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    done = run(*TINY, "tracker._target_=mine.Failing")
    import mine

    assert (
        mine.called
        == {
            "__init__": ["__init__"],
            "row": ["__init__", "row"],
            "end": ["__init__", "row", "row", "row", "end"],
        }[moment]
    )
    (message,) = warned
    assert "the tracker failed, the run continues without it" in message
    assert "no server" in message
    assert message in (done.directory / "run.log").read_text()
    assert done.summary["status"] == "finished"
    assert len(done.display.rows) == 3


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Stop("stopped", "as asked")])
@pytest.mark.parametrize("moment", ["__init__", "row"])
def test_a_request_to_stop_passes_through(moment, stop, run, tmp_path, monkeypatch, warned):
    ended = []

    class Asking:
        def __init__(self):
            if moment == "__init__":
                raise stop

        def row(self, row, sparsities):
            raise stop

        def end(self, summary, figure_path):
            ended.append(summary["status"])

    monkeypatch.setattr("refine.tracking.csv.Csv", Asking)
    with pytest.raises(type(stop)):
        run(*TINY)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["epochs"] == 1
    # A tracker that was never created is not created at the end: the user may have interrupted
    # its constructor.
    assert ended == ([] if moment == "__init__" else [summary["status"]])
    assert warned == []


def test_a_run_that_measures_nothing_creates_no_tracker(run, tmp_path):
    with pytest.raises(SettingError):
        run(*TINY, "model._target_=torchvision.models.googlenet", "tracker=tensorboard")
    assert list(tmp_path.iterdir()) == []


# TensorBoard


@pytest.fixture
def events():
    """Reads the event files of a run's directory."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(directory):
        found = EventAccumulator(str(directory / "tensorboard"), {"tensors": 0, "images": 0})
        return found.Reload()

    return read


def test_tensorboard_has_the_rows_the_layers_the_settings_and_the_figure(run, events):
    done = run(*TINY, "trainer.epochs=3", "tracker=tensorboard")
    found = events(done.directory)
    epochs = pd.read_csv(done.directory / "metrics.csv")
    for tag, column in EPOCHS.items():
        assert [event.step for event in found.Scalars(tag)] == [1, 2, 3]
        values = [event.value for event in found.Scalars(tag)]
        assert values == pytest.approx(epochs[column].tolist(), rel=1e-6)
    cycles = pd.read_csv(done.directory / "cycles.csv")
    replayed = found.Scalars("cycle/test_accuracy_after_replay")
    assert [event.step for event in replayed] == cycles["epoch"].tolist() == [1, 2]
    assert [event.value for event in replayed] == pytest.approx(
        cycles["test_accuracy_after_replay"].tolist()
    )
    for tag, table in (("layer_sparsity", epochs), ("layer_sparsity_after_cycle", cycles)):
        values = [event.value for event in found.Scalars(f"{tag}/{WEIGHT}")]
        assert values == pytest.approx(table["prunable_sparsity"].tolist(), abs=1e-6)
    (text,) = found.Tensors("configuration/text_summary")
    assert b"buffer_size: 40" in text.tensor_proto.string_val[0]
    (image,) = found.Images("refinement")
    assert (image.step, image.width, image.height) == (3, 2100, 1560)


def test_tensorboard_removes_what_is_measured_again(tmp_path, events):
    first = safe_tracker(tmp_path / "run", "tracker=tensorboard")
    for epoch in (1, 2, 3):
        first.row(epoch_row(epoch, train_loss=epoch), MASKS)
        first.row(cycle_row(epoch), MASKS)
    again = safe_tracker(tmp_path / "run", "tracker=tensorboard", start_epoch=1)
    for epoch in (2, 3, 4):
        again.row(epoch_row(epoch, train_loss=10 * epoch), MASKS)
    found = events(tmp_path / "run")
    received = [(event.step, event.value) for event in found.Scalars("loss/train")]
    assert received == [(1, 1), (2, 20), (3, 30), (4, 40)]
    assert [event.step for event in found.Scalars("cycle/sparsity")] == [1]


# MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The URI of an SQLite store, and a client of it."""
    pytest.importorskip("mlflow")
    import refine.tracking.mlflow  # noqa: F401 (lowers the log levels)

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/deep/mlflow.db"
    from mlflow import MlflowClient

    def client():
        return MlflowClient(uri)

    return SimpleNamespace(uri=uri, client=client)


def mlflow_run(store, directory):
    (run_id,) = json.loads((directory / "tracker.json").read_text()).values()
    return store.client().get_run(run_id)


def history(store, directory, name):
    found = store.client().get_metric_history(mlflow_run(store, directory).info.run_id, name)
    return [(metric.step, metric.value) for metric in found]


def test_mlflow_has_the_rows_the_settings_and_the_files(run, store, capfd):
    done = run(*TINY, "tracker=mlflow", f"tracker.uri={store.uri}", "tracker.project=tulips")
    assert capfd.readouterr() == ("", "")
    there = mlflow_run(store, done.directory)
    experiment = store.client().get_experiment(there.info.experiment_id)
    home = store.uri.removeprefix("sqlite:///").removesuffix("mlflow.db")
    assert there.info.artifact_uri.startswith(f"file://{home}artifacts/")  # not in ./mlruns
    assert (experiment.name, there.info.status) == ("tulips", "FINISHED")
    assert there.data.params["trainer.epochs"] == "2"
    assert there.data.params["model"] == "refine.models.logistic"
    epochs = pd.read_csv(done.directory / "metrics.csv")
    for name, column in EPOCHS.items():
        rows = list(zip(epochs["epoch"], map(pytest.approx, epochs[column]), strict=True))
        assert history(store, done.directory, name) == rows
    (after,) = history(store, done.directory, f"layer_sparsity_after_cycle/{WEIGHT}")
    assert after == (1, pytest.approx(done.display.rows[1].prunable_sparsity))
    assert there.data.metrics["final/test_accuracy"] == done.summary["test_accuracy"]
    files = {file.path for file in store.client().list_artifacts(there.info.run_id)}
    assert files == {"refinement.png", "metrics.csv", "cycles.csv", "config.yaml", "summary.json"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError("no more"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Stop("x", "y"), "KILLED"),
    ],
)
def test_mlflow_has_the_status_of_a_run_that_was_stopped(error, status, run, store, tmp_path):
    class Breaking(Quiet):
        def show(self, row):
            raise error

    with pytest.raises(type(error)):
        run(*TINY, "tracker=mlflow", f"tracker.uri={store.uri}", display=Breaking())
    assert mlflow_run(store, tmp_path / "run").info.status == status


def test_mlflow_takes_settings_and_layers_of_any_number_and_length(store, tmp_path, warned, capfd):
    many = [f"+model.a{number}={number}" for number in range(150)]
    overrides = ["tracker=mlflow", f"tracker.uri={store.uri}", *many, f"+model.long={'x' * 7000}"]
    overrides.append(f"+model.deep={{{'y' * 150}: {{{'z' * 150}: 1}}}}")
    masks = {f"a{number}.weight": MASKS[WEIGHT] for number in range(1100)}
    safe_tracker(tmp_path / "run", *overrides).row(epoch_row(1), masks)
    assert (warned, capfd.readouterr()) == ([], ("", ""))
    assert history(store, tmp_path / "run", "layer_sparsity/a1099.weight") == [(1, 0.25)]
    params = mlflow_run(store, tmp_path / "run").data.params
    assert [params[f"model.a{number}"] for number in range(150)] == [str(n) for n in range(150)]
    assert params["model.long"] == "x" * 6000


def test_mlflow_resumes_the_run_that_was_begun(store, tmp_path, warned):
    overrides = ("tracker=mlflow", f"tracker.uri={store.uri}")
    first = safe_tracker(tmp_path / "run", *overrides)
    for row in (epoch_row(1), cycle_row(1), epoch_row(2)):
        first.row(row, MASKS)
    begun = mlflow_run(store, tmp_path / "run").info.run_id
    first.end({"status": "interrupted", "epochs": 2}, tmp_path / "none.png")
    assert mlflow_run(store, tmp_path / "run").info.status == "KILLED"
    again = safe_tracker(tmp_path / "run", *overrides, "trainer.epochs=30", start_epoch=1)
    for row in (epoch_row(2), cycle_row(2), epoch_row(3)):
        again.row(row, MASKS)
    there = mlflow_run(store, tmp_path / "run")
    assert (there.info.run_id, there.info.status) == (begun, "RUNNING")
    assert history(store, tmp_path / "run", "loss/train") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert [step for step, _ in history(store, tmp_path / "run", "cycle/sparsity")] == [1, 2]
    assert warned == []


# Weights & Biases


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for wandb that records its calls."""
    received = SimpleNamespace(inits=[], logs=[], summary={}, ended=[], first=0)
    received.run = SimpleNamespace(
        id="abc",
        summary=received.summary,
        log=lambda values, step: received.logs.append((step, values)),
        finish=lambda exit_code: received.ended.append(exit_code),
    )

    def init(**given):
        received.inits.append(given)
        received.run.starting_step = received.first
        return received.run

    module = SimpleNamespace(init=init, Settings=dict, Image=lambda path: path)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delitem(sys.modules, "refine.tracking.wandb", raising=False)
    yield received
    sys.modules.pop("refine.tracking.wandb", None)  # it has the stand-in


def test_wandb_has_the_rows_the_settings_and_the_figure(run, wandb):
    done = run(*TINY, "tracker=wandb", "tracker.project=tulips")
    (init,) = wandb.inits
    assert (init["project"], init["mode"], init["id"]) == ("tulips", "offline", None)
    assert init["dir"] == str(done.directory)
    assert init["config"]["trainer"]["epochs"] == 2
    (*rows, figure) = wandb.logs
    assert [step for step, _ in rows] == [1, 1, 2]
    epochs = pd.read_csv(done.directory / "metrics.csv")
    for name, column in EPOCHS.items():
        assert [values[name] for _, values in rows if name in values] == epochs[column].tolist()
    assert figure == (2, {"refinement": str(done.directory / "refinement.png")})
    assert wandb.summary == done.summary
    assert wandb.ended == [0]


def test_wandb_has_the_status_of_a_run_that_failed(run, wandb):
    class Breaking(Quiet):
        def show(self, row):
            raise MemoryError

    with pytest.raises(MemoryError):
        run(*TINY, "tracker=wandb", display=Breaking())
    assert (wandb.summary["status"], wandb.ended) == ("failed", [1])


def test_wandb_resumes_the_run_that_was_begun(tmp_path, wandb):
    safe_tracker(tmp_path / "run", "tracker=wandb").row(epoch_row(1), MASKS)
    wandb.logs.clear()
    wandb.first = 3  # W&B has the steps 1 and 2 of it
    again = safe_tracker(tmp_path / "run", "tracker=wandb", "tracker.mode=online", start_epoch=1)
    for epoch in (2, 3):
        again.row(epoch_row(epoch), MASKS)
    assert [step for step, _ in wandb.logs] == [3]
    assert [(init["id"], init["resume"]) for init in wandb.inits] == [
        (None, None),
        ("abc", "allow"),
    ]


# What else depends on the tracker?


def test_a_configuration_from_before_there_were_trackers_still_runs(command, tmp_path):
    assert command(*TINY, "output_dir=run").code == 0
    path = tmp_path / "run" / "config.yaml"
    before, tracker, after = path.read_text().partition("tracker:\n")
    kept = [line for line in after.splitlines(keepends=True) if not line.startswith("  ")]
    assert tracker
    path.write_text(before + "".join(kept))
    done = command("--config-path", "run", "output_dir=again")
    assert (done.code, done.err) == (0, "")


def test_a_sweeps_directories_are_not_named_after_the_tracker(command, tmp_path):
    pytest.importorskip("mlflow")
    uri = f"tracker.uri=sqlite:///{tmp_path}/store"
    done = command("-m", *TINY, "tracker=mlflow", uri, "seed=1", "output_dir=s")
    assert done.code == 0, done.err
    (summary,) = (tmp_path / "s").rglob("summary.json")
    assert "tracker" not in str(summary.relative_to(tmp_path))


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_and_cfg_import_no_tracker(arguments, tmp_path):
    code = (
        "import sys; from refine.cli.run import main; main(); "
        "assert not {'torch', 'tensorboard', 'mlflow', 'wandb'} & {*sys.modules}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "tracker=mlflow"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
