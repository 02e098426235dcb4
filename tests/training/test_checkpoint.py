"""A run that is stopped anywhere and resumed ends as if nothing had happened."""

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, Quiet
from filelock import FileLock
from forked import done as done_apart
from runs import digits_folder, rows

from refine import experiment
from refine.cli.compose import composed
from refine.config import fingerprint
from refine.errors import SettingError, Stop
from refine.training.checkpoint import MAGIC, Checkpoints, Damaged, read
from refine.training.state import rows as recorded_rows
from refine.training.step import Stepper

# Four steps an epoch, a cycle of two steps after the first and the second.
TINY = (
    *SMALL, "dataset.subset_size=80", "dataset.validation_size=20", "trainer.batch_size=15",
    "trainer.epochs=3", "dataset.augment=shift_flip", "dataset.image_size=8", "dataset.test_size=0",
    "save_model=true",
)  # fmt: skip
STEPS = 3 * 4 + 2 * 2
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture
def stopped_at(run, monkeypatch):
    """Runs until SIGTERM comes in the step of that number, counted over epochs and replays."""

    def call(number, *overrides, name="stopped", number_of=signal.SIGTERM):
        taken = []
        step = Stepper.__call__

        def counting(self, *batch):
            taken.append(1)
            if len(taken) == number:
                signal.raise_signal(number_of)
            return step(self, *batch)

        monkeypatch.setattr(Stepper, "__call__", counting)
        try:
            with pytest.raises(Stop):
                run(*overrides, name=name)
        finally:
            monkeypatch.setattr(Stepper, "__call__", step)

    return call


@pytest.fixture
def resume(command, tmp_path):
    def call(name="stopped", *overrides):
        done = command(f"resume={name}", *overrides)
        assert (done.code, done.err) == (0, "")
        return tmp_path / name

    return call


def same(directory, other):
    weights = [(place / "model.safetensors").read_bytes() for place in (directory, other)]
    return weights[0] == weights[1] and list(rows(directory)) == list(rows(other))


@posix
@pytest.mark.parametrize("number", range(1, STEPS + 1))
def test_stopped_in_any_step_of_an_epoch_or_a_replay(
    number, undisturbed, stopped_at, resume, tmp_path
):
    whole = undisturbed(*TINY)
    stopped_at(number, *TINY)
    directory = tmp_path / "stopped"
    assert not (directory / "summary.json").exists()  # it has not ended
    assert same(resume(), whole.directory)
    assert json.loads((directory / "summary.json").read_text())["status"] == "finished"


@posix
@pytest.mark.parametrize("changes", [
    ["trainer=sgd_one_cycle"], ["trainer=muon_one_cycle"], ["checkpoint.every=2"],
    ["pruner.importance=random", "replay=uniform"], ["trainer.precision=fp32"],
    ["experiment=frontier", "dataset=digits", "schedule.start=1", "schedule.stop=null"],
])  # fmt: skip
def test_whatever_the_recipe(changes, run, stopped_at, resume):
    whole = run(*changes, *TINY, name="whole")
    for number in (3, 11):
        stopped_at(number, *changes, *TINY, name=f"stopped-{number}")
        assert same(resume(f"stopped-{number}"), whole.directory)


@posix
def test_random_numbers_of_the_network_continue_too(run, stopped_at, resume, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import random, numpy, torch\n"
        "class Noisy(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(3 * 64, 10)\n"
        "    def forward(self, x):\n"
        "        x = torch.nn.functional.dropout(x.flatten(1), training=self.training)\n"
        "        return self.layer(x) * (1 + random.random() + numpy.random.random())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    overrides = (*TINY, "model._target_=mine.Noisy", "dataset.image_size=8")
    whole = run(*overrides, name="whole")
    stopped_at(6, *overrides)
    assert same(resume(), whole.directory)


MINE = """
import torch
from torch import nn

class Counting(torch.optim.SGD):
    "Keeps a number of its own in its groups, as schedule-free optimizers do."
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            group["weight_decay"] = 0.01 * group["steps"]
        return super().step(closure)

class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 64, 10)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
    def forward(self, x):
        if self.training:
            self.seen += 1
        return self.layer(x.flatten(1)) * (1 + self.seen / 10)

def careless(pixels, generator):
    "Draws from torch's own generator."
    return torch.where(torch.rand(len(pixels), 1, 1, 1) < 0.5, pixels, pixels.flip(2))
"""


@posix
@pytest.mark.parametrize("changes", [
    ["trainer.optimizer._target_=mine.Counting"],
    ["model._target_=mine.Buffered", "dataset.image_size=8"],
    ["dataset.augment=mine.careless"],
])  # fmt: skip
def test_state_of_ones_own_is_resumed_too(changes, run, stopped_at, resume, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    whole = run(*TINY, *changes, name="whole")
    stopped_at(7, *TINY, *changes)
    assert same(resume(), whole.directory)


@posix
def test_stopped_again_and_again(undisturbed, stopped_at, resume, command, tmp_path, monkeypatch):
    whole = undisturbed(*TINY)
    stopped_at(2, *TINY)
    step = Stepper.__call__
    for number in (3, 2, 5):  # steps after each start
        taken = []

        def counting(self, *batch, taken=taken, number=number):
            taken.append(1)
            if len(taken) == number:
                signal.raise_signal(signal.SIGUSR1)
            return step(self, *batch)

        monkeypatch.setattr(Stepper, "__call__", counting)
        done = command("resume=stopped")
        assert done.code == 75
        assert "resume=" in done.out
        monkeypatch.setattr(Stepper, "__call__", step)
    assert same(resume(), whole.directory)
    environment = json.loads((tmp_path / "stopped" / "environment.json").read_text())
    assert len(environment["resumed"]) == 4


def test_more_epochs_are_as_if_there_had_been_more_from_the_start(run, resume):
    longer = run(*TINY, "trainer.epochs=5", name="longer")
    run(*TINY, "checkpoint.keep=true", name="first")
    assert same(resume("first", "trainer.epochs=5"), longer.directory)


@posix
def test_ctrl_c_saves_too_and_ctrl_c_twice_stops_at_once(
    run, undisturbed, stopped_at, resume, tmp_path, monkeypatch
):
    whole = undisturbed(*TINY)
    stopped_at(7, *TINY, number_of=signal.SIGINT)
    directory = tmp_path / "stopped"
    assert json.loads((directory / "summary.json").read_text())["status"] == "interrupted"
    assert same(resume(), whole.directory)

    step = Stepper.__call__
    taken = []

    def twice(self, *batch):
        taken.append(1)
        if len(taken) == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(self, *batch)

    monkeypatch.setattr(Stepper, "__call__", twice)
    with pytest.raises(KeyboardInterrupt):
        run(*TINY, name="twice")
    assert len(taken) == 7  # not one step more
    monkeypatch.setattr(Stepper, "__call__", step)
    assert same(resume("twice"), whole.directory)


@posix
def test_ctrl_c_before_the_first_step_waits_for_none(run, tmp_path, monkeypatch):
    def slow(*arguments):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr(experiment, "build_data", slow)
    with pytest.raises(KeyboardInterrupt):
        run(*TINY)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def killed(undisturbed, stopped_at, tmp_path):
    """A run with both of its checkpoints, and the undisturbed one."""
    whole = undisturbed(*TINY)
    stopped_at(10, *TINY)
    assert (tmp_path / "stopped" / "checkpoint.before.pt").is_file()
    return tmp_path / "stopped", whole.directory


@posix
@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, killed, command):
    directory, whole = killed
    latest = directory / "checkpoint.pt"
    content = bytearray(latest.read_bytes())
    content[len(content) // 2] ^= 1
    spoiled = {
        "cut": content[: len(content) // 3],
        "flipped": content,
        "foreign": b"PK\n",
        "empty": b"",
    }
    latest.write_bytes(spoiled[damage])
    done = command("resume=stopped")
    assert done.code == 0
    assert "stopped/checkpoint.pt" in done.out
    assert same(directory, whole)


@posix
def test_without_a_whole_checkpoint_it_says_so_and_touches_nothing(killed, command):
    directory, _ = killed
    for path in directory.glob("checkpoint*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in directory.iterdir() if path.name != "run.log"}
    done = command("resume=stopped")
    assert done.code == 1
    assert "checkpoint.pt" in done.err
    assert "checkpoint.before.pt" in done.err
    assert "Traceback" not in done.err
    before.pop(directory / "summary.json", None)
    for path, content in before.items():
        assert path.read_bytes() == content
    assert read_or_none(directory / "summary.json")["status"] == "failed"


def read_or_none(path):
    return json.loads(path.read_text()) if path.exists() else None


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    buffer = io.BytesIO()
    torch.save({"model": Evil()}, buffer)
    for body in (buffer.getvalue(), pickle.dumps(Evil())):
        path = tmp_path / "checkpoint.pt"
        path.write_bytes(MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        with pytest.raises(Damaged, match="cannot be read"):
            read(path)
    assert not (tmp_path / "executed").exists()


def test_the_last_good_checkpoint_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"number": 1})

    def no_space(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("refine.records.files.os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save({"number": 2})
    monkeypatch.undo()
    assert checkpoints.load() == ({"number": 1}, [])
    assert not list(tmp_path.glob(".*.part"))
    checkpoints.save({"number": 3})
    assert read(tmp_path / "checkpoint.before.pt") == {"number": 1}


def test_a_spoiled_checkpoint_never_replaces_the_good_one_before_it(tmp_path):
    first = Checkpoints(tmp_path)
    first.save({"number": 1})
    first.save({"number": 2})
    (tmp_path / "checkpoint.pt").write_bytes(b"spoiled")
    again = Checkpoints(tmp_path)
    assert again.load()[0] == {"number": 1}
    again.save({"number": 2})
    assert read(tmp_path / "checkpoint.before.pt") == {"number": 1}


def test_a_state_that_could_not_be_loaded_again_is_refused_at_once(tmp_path):
    with pytest.raises(SettingError, match=r"checkpoint\.every"):
        Checkpoints(tmp_path).save({"optimizer": print})
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_keeps_the_last_one_if_asked_to(run, command):
    kept = run(*TINY, "checkpoint.keep=true", name="a").directory
    assert {p.name for p in kept.glob("checkpoint*")} == {"checkpoint.pt"}
    gone = run(*TINY, name="b").directory
    assert not list(gone.glob("checkpoint*"))
    before = (gone / "summary.json").read_bytes()
    assert "would train it further" in command("resume=a").out
    remedy = "checkpoint.keep=true"
    assert remedy in command("resume=b").out
    more = command("resume=b", "trainer.epochs=4")
    assert (more.code, remedy in more.err, "--config-path b runs it" in more.err) == (1, True, True)
    assert (gone / "summary.json").read_bytes() == before
    assert composed([*TINY]).checkpoint.keep is False
    assert fingerprint(composed([*TINY, "checkpoint.keep=true"])) == fingerprint(composed([*TINY]))


def test_a_checkpoint_follows_every_cycle(run, monkeypatch):
    saved = []
    save = Checkpoints.save

    def noting(self, state):
        saved.append((state["position"]["epoch"], state["refinement"]["cycles"]))
        save(self, state)

    monkeypatch.setattr(Checkpoints, "save", noting)
    run(*TINY, "checkpoint.every=10")
    assert saved == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2)]


@posix
def test_without_checkpoints_none_are_written(run, stopped_at, command):
    directory = run(*TINY, "checkpoint.every=0").directory
    assert not list(directory.glob("checkpoint*"))
    stopped_at(6, *TINY, "checkpoint.every=0")
    done = command("resume=stopped")
    assert done.code == 1
    assert "checkpoint.every=0" in done.err


@posix
def test_without_checkpoints_a_stopped_run_keeps_what_it_has_measured(stopped_at, tmp_path):
    stopped_at(9, *TINY, "checkpoint.every=0")
    summary = json.loads((tmp_path / "stopped" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("preempted", 1)


def test_a_mistaken_resume_leaves_a_finished_run_as_it_was(run, command, tmp_path):
    run(*TINY, "model=logistic")
    before = (tmp_path / "run" / "summary.json").read_bytes()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"spoiled")
    assert command("resume=run", "trainer.epochs=5").code == 1
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


@posix
@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_a_damaged_text_file_is_no_traceback(name, killed, command):
    directory, whole = killed
    (directory / name).write_text("{ - : [")
    done = command("resume=stopped")
    assert "Traceback" not in done.err
    if name == "config.yaml":
        assert done.code == 1
        assert len(done.err.strip().splitlines()) <= 2
    else:
        assert done.code == 0
        assert same(directory, whole)


@posix
@pytest.mark.parametrize("quotes", ["{}", "'{}'", '"{}"'])
def test_a_directory_named_as_sweeps_name_them(quotes, stopped_at, command, tmp_path):
    name = "pruner.ratio=0.1,seed=1-abcd"
    stopped_at(4, *TINY)
    (tmp_path / "stopped").rename(tmp_path / name)
    done = command(f"resume={quotes.format(name)}")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / name / "summary.json").is_file()


def test_what_may_change_and_what_not(run, command, tmp_path):
    run(*TINY)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for override, told in {
        "pruner.ratio=0.3": "pruner.ratio: was 0.15",
        "seed=7": "seed: was 42",
        "trainer=muon_one_cycle": "trainer: is no group",
        "+model.width=3": "model.width: was not there",
    }.items():
        done = command("resume=run", override)
        assert done.code == 1
        assert told in done.err
        assert len(done.err.strip().splitlines()) <= 2
    done = command("resume=run")
    assert (done.code, done.err) == (0, "")
    assert "has finished" in done.out
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    shorter = command("resume=run", "trainer.epochs=2")
    assert (shorter.code, "3 epochs" in shorter.out) == (0, True)
    assert command("resume=").code not in (0, None)
    done = command("resume=nowhere")
    assert (done.code, "does not exist" in done.err) == (1, True)
    (tmp_path / "empty").mkdir()
    done = command("resume=empty")
    assert (done.code, "holds no run" in done.err) == (1, True)
    assert list((tmp_path / "empty").iterdir()) == []
    done = command("-m", "resume=run", "seed=1,2")
    assert (done.code, "resume" in done.err) == (1, True)


@pytest.mark.long
def test_the_second_process_in_a_directory_is_told_and_touches_nothing(run, tmp_path):
    seen = []

    class Intruding(Quiet):
        def show(self, row):
            super().show(row)
            if not seen:
                before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir()}
                for extra in (
                    (*TINY, f"output_dir={tmp_path / 'run'}"),
                    (f"resume={tmp_path}/run",),
                ):
                    seen.append(done_apart([*extra], cwd=ROOT))
                seen.append({p: p.read_bytes() for p in before} == before)

    done = run(*TINY, display=Intruding())
    first, second, untouched = seen
    assert (first.returncode, second.returncode, untouched) == (1, 1, True)
    assert "exists and is not empty" in first.stderr
    assert "another process is running" in second.stderr
    assert done.summary["status"] == "finished"


def test_who_only_looks_whether_a_run_is_going_on_is_not_in_its_way(run, tmp_path):
    (tmp_path / "run").mkdir()
    lock = FileLock(tmp_path / "run" / ".lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.2, lock.release, kwargs={"force": True}).start()
    config = composed([*TINY])
    experiment.run(config, Quiet(), str(tmp_path / "run"), again=True)
    assert (tmp_path / "run" / "summary.json").is_file()


@posix
def test_the_clock_may_go_back(undisturbed, stopped_at, resume, tmp_path, monkeypatch):
    whole = undisturbed(*TINY)
    stopped_at(6, *TINY)
    for path in (tmp_path / "stopped").iterdir():
        os.utime(path, (4e9, 4e9))  # from a future that the clock has left
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert same(resume(), whole.directory)


@posix
def test_data_that_has_gone_is_named_and_the_run_can_wait_for_it(
    run, stopped_at, command, tmp_path
):
    home = digits_folder(tmp_path / "digits")
    overrides = (*TINY, "dataset=image_folder", f"dataset.root={home}", "dataset.subset_size=40")
    overrides += ("dataset.validation_size=0", "dataset.image_size=32")
    whole = run(*overrides, name="whole")
    stopped_at(3, *overrides)
    home.rename(tmp_path / "moved")
    done = command("resume=stopped")
    assert done.code == 1
    assert "dataset.root" in done.err
    (tmp_path / "moved").rename(home)
    assert command("resume=stopped").code == 0
    assert same(tmp_path / "stopped", whole.directory)


def test_the_state_holds_nothing_but_tensors_numbers_and_text(run):
    state = read(run(*TINY, "checkpoint.keep=true").directory / "checkpoint.pt")

    def kinds(value):
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        if isinstance(value, list | tuple):
            return set().union(*map(kinds, value))
        return {type(value)}

    assert kinds(state) <= {torch.Tensor, int, float, str, bool, type(None)}
    assert recorded_rows(state)[0].epoch == 1


def test_a_run_that_version_0_1_0_left_unfinished_is_resumed(command, tmp_path):
    shutil.copytree(Path(__file__).parent / "run-of-0.1.0", tmp_path / "old")
    before = rows(tmp_path / "old")
    done = command("resume=old")
    assert (done.code, done.err) == (0, "")
    after = rows(tmp_path / "old")
    assert [row for row in after if row in before] == before
    summary = json.loads((tmp_path / "old" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"], summary["cycles"]) == ("finished", 4, 2)
    # As the undisturbed run had it.
    assert summary["active_parameters"] == 1_574


def test_a_checkpoint_of_before_0_1_0_is_told_in_a_line(tmp_path):
    buffer = io.BytesIO()
    torch.save({"refinement": {}}, buffer)
    body = buffer.getvalue()
    head = b"runtime-refinement checkpoint 1, sha256 " + hashlib.sha256(body).hexdigest().encode()
    (tmp_path / "checkpoint.pt").write_bytes(head + b"\n" + body)
    with pytest.raises(SettingError, match="of an earlier version"):
        read(tmp_path / "checkpoint.pt")
