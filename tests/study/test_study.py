"""Does refine-study find, by validation accuracy alone, what its trials say is best?"""

import csv
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import SMALL
from forked import Forked

optuna = pytest.importorskip("optuna")

from optuna.distributions import FloatDistribution, IntDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from refine import experiment  # noqa: E402
from refine.errors import SettingError, Stop  # noqa: E402
from refine.report.cli import main as report  # noqa: E402
from refine.study import search, space  # noqa: E402
from refine.study.cli import main  # noqa: E402
from refine.study.database import OWNER, PROBLEM  # noqa: E402
from refine.study.lock import at_work, living, locked  # noqa: E402
from refine.study.objective import Objective  # noqa: E402
from refine.study.progress import Progress  # noqa: E402

FIXED = (*SMALL, "model=logistic", "dataset.validation_size=60")
RATIO = "pruner.ratio=interval(0.1,0.6)"
PNG = b"\x89PNG"


@pytest.fixture
def study(tmp_path, monkeypatch, capsys, request):
    """``refine-study`` in this process, in an empty directory, with the small run's settings. The
    runs' own pictures are left out: they take longer than the runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(experiment, "draw_run", lambda directory, *_: None)

    def call(*arguments, fixed=FIXED):
        code = main(["--directory", "study", *fixed, *arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


def table(directory="study"):
    return rows_of(Path(directory) / "trials.csv")


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def last_row(directory):
    """What a run measured last, but for its time."""
    return {**rows_of(directory / "metrics.csv")[-1], "epoch_seconds": None}


def values(row):
    return {name: value for name, value in row.items() if name not in ("seconds", "directory")}


def stored(directory="study"):
    """The study as Optuna sees it."""
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = f"{directory}/study.journal"
    backend = JournalFileBackend(path, JournalFileOpenLock(path))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


def peers(accuracy, count=5):
    """Adds ``count`` finished trials that had ``accuracy`` after each epoch, and none in the end:
    so that they are not the best."""
    for _ in range(count):
        stored().add_trial(
            optuna.trial.create_trial(
                params={"pruner.ratio": 0.3},
                distributions={"pruner.ratio": FloatDistribution(0.1, 0.6)},
                value=0.0,
                intermediate_values={1: accuracy, 2: accuracy},
                user_attrs={"validation_accuracy": 0.0, "sparsity": 0.3},
            )
        )


# One objective


def test_the_best_trial_can_be_run_again(study, command, tmp_path, capsys):
    searched = "pruner.ratio=interval(0.1,0.95)", "trainer.optimizer.lr=0.01,0.001"
    done = study("--trials", "4", "--at-sparsity", "0.8", *searched)
    assert (done.code, done.err) == (0, "")
    rows = table()
    assert [row["number"] for row in rows] == ["0", "1", "2", "3"]
    reached = [row for row in rows if float(row["sparsity"]) >= 0.7995]
    assert 0 < len(reached) < 4
    best = max(reached, key=lambda row: float(row["validation_accuracy"]))
    assert [row["number"] for row in rows if row["best"] == "True"] == [best["number"]]
    lines = [line for line in done.out.splitlines() if line.startswith("trial ")]
    assert len(lines) == 4
    shown = f"best: trial {best['number']}, {float(best['validation_accuracy']):.2%}"
    assert lines[-1].endswith(shown)
    assert "\x1b" not in done.out
    assert (tmp_path / "study" / "study.png").read_bytes()[:4] == PNG

    config = yaml.safe_load((tmp_path / "study" / "best" / "config.yaml").read_text())
    assert config["pruner"]["ratio"] == float(best["pruner.ratio"])
    assert config["trainer"]["optimizer"]["lr"] == float(best["trainer.optimizer.lr"])
    again = command("--config-path", "study/best", "output_dir=again")
    assert (again.code, again.err) == (0, "")
    assert last_row(tmp_path / "again") == last_row(tmp_path / "study" / best["directory"])
    log = (tmp_path / "study" / best["directory"] / "run.log").read_text()
    assert log.count("epoch 2/2") == 1
    assert report(["study/trials", "--cycles", "--format", "csv"]) == 0
    assert capsys.readouterr().out.count(",end,1,") == 4


def test_a_second_start_continues_as_if_there_had_been_one(study, tmp_path):
    assert study("--trials", "2", RATIO).code == 0
    first = table()
    done = study("--trials", "3", RATIO)
    assert done.code == 0
    assert done.out.count("trial 2  ") == 1
    assert "trial 1  " not in done.out
    continued = table()
    assert continued[:2] == first
    (tmp_path / "study").rename("before")
    assert study("--trials", "3", RATIO).code == 0
    assert [*map(values, table())] == [*map(values, continued)]
    assert len({row["pruner.ratio"] for row in continued}) == 3
    done = study("--trials", "3", RATIO, "device=cpu")  # no other study, and there are enough
    assert done.code == 0
    assert "trial " not in done.out.replace("trials", "")
    (tmp_path / "study").rename("seed-0")
    assert study("--trials", "1", "--seed", "1", RATIO).code == 0
    assert table()[0]["pruner.ratio"] != continued[0]["pruner.ratio"]


def test_the_test_images_have_no_say(study, monkeypatch):
    """What a run says of them is exchanged for its opposite, or is not there at all."""
    real, told = search.run, iter((0.9, 0.5, 0.7))

    class Liar:
        def __init__(self, display):
            self._display = display

        def __getattr__(self, name):
            return getattr(self._display, name)

        def show(self, row):
            if hasattr(row, "test_accuracy"):
                row = dataclasses.replace(row, test_accuracy=1.0, test_loss=0.0)
            self._display.show(row)

    def run(config, display, directory):
        summary = real(config, Liar(display), directory)
        accuracy = next(told)
        return {"validation_accuracy": accuracy, "sparsity": summary["sparsity"]}

    monkeypatch.setattr(search, "run", run)
    assert study("--trials", "3", RATIO).code == 0
    assert [row["validation_accuracy"] for row in table()] == ["0.9", "0.5", "0.7"]
    assert [row["best"] for row in table()] == ["True", "False", "False"]
    peers(0.99)
    assert study("--trials", "9", RATIO).code == 0
    assert table()[-1]["state"] == "pruned"  # although its test accuracy is 1


def test_a_weak_trial_is_stopped_and_a_strong_one_is_not(study, tmp_path):
    assert study("--trials", "1", RATIO).code == 0
    peers(1.0)
    done = study("--trials", "7", RATIO)
    assert done.code == 0
    row = table()[-1]
    assert (row["state"], row["epochs"], row["best"]) == ("pruned", "1", "False")
    assert "stopped early, after epoch 1" in done.out
    summary = yaml.safe_load((tmp_path / "study" / "trials" / "0006" / "summary.json").read_text())
    assert summary["status"] == "pruned"
    assert stored().trials[6].state == TrialState.PRUNED
    assert study("--trials", "8", "--grace", "1", RATIO).code == 0
    assert table()[-1]["state"] == "finished"  # the second epoch is the last: nothing to gain
    peers(0.0, 10)
    assert study("--trials", "19", RATIO).code == 0
    assert table()[-1]["state"] == "finished"


def test_only_trials_with_the_sparsity_say_what_is_weak():
    def finished(value):
        return optuna.trial.create_trial(
            value=value, intermediate_values={1: 1.0}, params={}, distributions={}
        )

    running = optuna.trial.create_trial(
        state=TrialState.RUNNING, intermediate_values={1: 0.5}, params={}, distributions={}
    )
    objective = Objective(0.9)
    assert objective.values(1.0, 0.3) == [pytest.approx(-0.6)]
    assert objective.values(0.4, 0.8996) == [0.4]  # a cut of whole weights may miss by one
    assert not objective.weak([finished(-0.6)] * 5, running, 0)
    assert objective.weak([finished(1.0)] * 5, running, 0)
    assert not objective.weak([finished(1.0)] * 5, running, 1)
    assert not objective.weak([finished(1.0)] * 4, running, 0)


def test_no_trial_with_the_sparsity(study, tmp_path):
    done = study("--trials", "2", "--at-sparsity", "0.9", RATIO)
    assert done.code == 1
    assert "no trial has 90.0% sparsity; trial " in done.err
    assert len(done.err.splitlines()) == 1
    assert len(table()) == 2
    assert not (tmp_path / "study" / "best").exists()


# The front


def test_the_front_of_accuracy_and_sparsity(study, tmp_path):
    done = study("--pareto", "--trials", "6", RATIO, "pruner.importance=magnitude,random")
    assert (done.code, done.err) == (0, "")
    points = {
        row["number"]: (float(row["validation_accuracy"]), float(row["sparsity"]))
        for row in table()
    }
    front = {
        number
        for number, (accuracy, sparsity) in points.items()
        if not any(
            other >= accuracy and cut >= sparsity and (other, cut) != (accuracy, sparsity)
            for other, cut in points.values()
        )
    }
    assert {row["number"] for row in table() if row["best"] == "True"} == front
    assert len(front) < 6
    for number in front:
        assert f"trials/000{number} " in done.out
    best = max(front, key=lambda number: points[number])
    configs = [tmp_path / "study" / place for place in ("best", f"trials/000{best}")]
    first, second = ((config / "config.yaml").read_text() for config in configs)
    assert first == second
    assert (tmp_path / "study" / "study.png").read_bytes()[:4] == PNG
    assert {row["state"] for row in table()} == {"finished"}


# What goes wrong


def test_a_failed_trial_is_named_and_the_study_continues(study, tmp_path):
    choices = "trainer.optimizer.lr=0.001,1e39", "pruner.importance=magnitude,os.getcwd"
    done = study("--trials", "8", *choices)
    assert (done.code, done.err) == (0, "")
    failed = [row for row in table() if row["state"] == "failed"]
    assert 0 < len(failed) < 8
    sound = [row for row in table() if row["state"] == "finished"]
    assert {row["trainer.optimizer.lr"] for row in sound} == {"0.001"}
    problems = " ".join(row["problem"] for row in failed)
    assert "getcwd() takes no arguments" in problems
    assert "no longer" in problems  # finite, the weights or the loss
    for row in failed:
        assert f"failed: {row['problem']}" in done.out
    states = [trial.state for trial in stored().trials]
    assert states.count(TrialState.FAIL) == len(failed)
    assert study("--trials", "8", *choices).code == 0
    assert len(table()) == 8  # a failed trial counts, or a hopeless study would not end


def test_nothing_but_failures_is_an_error(study):
    done = study("--trials", "1", "pruner.importance=choice(os.getcwd)")
    assert done.code == 1
    assert done.err == "refine-study: no trial has finished; study/trials.csv says why\n"


def test_a_network_that_was_cut_after_its_last_measurement_is_not_judged(study):
    assert study("--trials", "1", RATIO, "schedule.stop=2").code == 1
    assert table()[0]["problem"].startswith("schedule.stop: a cycle after the last epoch")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "nothing to search: give a setting several values, such as choice(a,b)"),
        (
            "prunr.ratio=0.1,0.2",
            "prunr.ratio: there is no such setting; did you mean pruner.ratio=0.1?",
        ),
        ("pruner.ratoi=0.1,0.2", "pruner.ratoi: there is no such setting; did you mean"),
        ("pruner.ratio=0.1,2", "pruner.ratio: must be above 0 and below 1, not 2"),
        ("pruner.ratio=interval(0.1,2)", "pruner.ratio: must be above 0 and below 1, not 2"),
        ("pruner.ratio=interval(0.4,0.1)", "pruner.ratio: interval(0.4,0.1) is empty or endless"),
        ("pruner.ratio=interval(0.1,inf)", "pruner.ratio: interval(0.1,inf) is empty or endless"),
        ("pruner.ratio=interval(0.4)", "missing a required argument: 'end'"),
        ("schedule.interval=range(3,1)", "schedule.interval: range(3,1,1) is empty"),
        ("schedule.interval=range(1,3,0)", "schedule.interval: range(1,3,0) is empty"),
        ("schedule.interval=tag(log,range(0,3))", "schedule.interval: tag(log,...) needs"),
        (
            "schedule.interval=tag(ln,range(1,3))",
            "schedule.interval: the only tag is log",
        ),
        ("schedule.interval=interval(1,3)", "schedule.interval: must be a whole number"),
        ("model=logistic,simple_cn", "model: there is no 'simple_cn'; did you mean simple_cnn?"),
        ("model=glob(*)", "model: a study needs the options by name"),
        ("seed=1,2 seed=3", "seed: is given twice"),
        ("seed=1,2 output_dir=x", "output_dir: each trial has its own; give the study's as --dir"),
        ("seed=1,2 --trials 0", "--trials: must be at least 1, not 0"),
        ("seed=1,2 --timeout 0", "--timeout: must be above 0, not 0"),
        ("seed=1,2 --at-sparsity 90", "--at-sparsity: must be a fraction, at least 0 and below 1"),
        ("seed=1,2 --seed -1", "--seed: must be at least 0, not -1"),
        ("seed=1,2 --pareto --grace 1", "--grace: cannot be given with --pareto"),
        ("seed=1,2 --directory /dev/null/x", "--directory: /dev/null/x cannot be written"),
        ("seed=1,2 --directory /dev/null", "--directory: /dev/null is not a directory"),
        ("seed=1,2 --directory /", "--directory: / holds something other than a study"),
        ("seed=1,2 dataset.validation_size=0", "dataset.validation_size: is 0, and a study"),
    ],
)
def test_a_mistake_is_named_in_a_line_and_leaves_nothing(study, arguments, says, tmp_path):
    fixed = () if "dataset.validation_size" in arguments else ("dataset.validation_size=60",)
    done = study(*arguments.split(), fixed=fixed)
    assert done.code == 1
    assert says in done.err
    assert done.err.startswith("refine-study: ")
    assert 1 <= len(done.err.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sweep.dry_run=true",), "sweep.dry_run: lists the runs of refine-run -m; leave it out"),
        (("replay.alpha=0.5",), "replay.alpha: has no effect with replay.sampling=shuffled"),
        (("replay.vae.hidden=range(8,64)",), "replay.vae.hidden: has no effect with replay.stor"),
        (("schedule.period=3",), "schedule.period: schedule=periodic has no such setting"),
        (("=3",), "refine: '=3' is no override"),
        (("seed=~x",), "seed: cannot read seed=~x"),
        (("pruner=5",), "pruner: there is no '5'"),
    ],
    ids=str,
)
def test_what_does_nothing_in_any_trial_is_refused(study, arguments, says, tmp_path):
    done = study(RATIO, *arguments)
    assert done.code == 1
    assert done.err.startswith(f"refine-study: {says}")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_does_something_in_some_trials_is_said_once():
    recovered = ("recovery=choice(none,slr)", "recovery.max_lr=tag(log,interval(1e-3,1e-1))")
    small = [entry for entry in FIXED if not entry.startswith("replay.")]
    (note,) = space.check(space.parsed([*small, *recovered]))
    assert "recovery.max_lr: has no effect with recovery=none; choose" in note
    # Only where two of them meet has the third an effect.
    meeting = ("replay.sampling=choice(shuffled,proportional)", "replay.steps=choice(0,2)",
               "replay.alpha=interval(0.1,0.9)")  # fmt: skip
    assert any("replay.alpha" in note for note in space.check(space.parsed([*small, *meeting])))


def test_a_range_of_any_length_is_searched_without_being_made():
    searched = space.parsed(["seed=range(0,1000000000)"]).searched["seed"]
    assert (searched.low, searched.high) == (0, 999_999_999)


def test_validation_images_are_asked_for(study, tmp_path):
    done = study(RATIO, fixed=())
    assert done.code == 1
    assert "dataset.validation_size: is 0, and a study chooses by validation" in done.err
    assert "set it, such as dataset.validation_size=200" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_goes_with_some_others_is_no_mistake():
    epochs, start = "trainer.epochs=choice(5,10)", "schedule.start=range(1,11)"
    good = ["dataset.validation_size=60"]
    space.check(space.parsed([*good, epochs, start]))
    with pytest.raises(SettingError, match=r"schedule.start: must be at most 5"):
        space.check(space.parsed([*good, epochs, "schedule.start=range(1,12)"]))


def test_another_search_in_the_same_directory_is_refused(study, tmp_path):
    assert study("--trials", "1", RATIO).code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()}
    for others, theirs, ours in (
        (["--pareto", RATIO], "--at-sparsity 0", "--pareto"),
        (["pruner.ratio=interval(0.1,0.7)"], RATIO, "pruner.ratio=interval(0.1,0.7)"),
        (["--seed", "1", RATIO], "--seed 0", "--seed 1"),
        ([RATIO, "replay=none"], "less", "replay=none"),
    ):
        done = study("--trials", "5", *others)
        assert done.code == 1
        assert f"study was begun with {theirs}, and here is {ours}; repeat" in done.err
        assert len(done.err.splitlines()) == 1
    now = {path: path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()}
    assert now == files


def test_a_damaged_journal_is_named(study, tmp_path):
    for content in ("no journal\nat all\n", '{"op_code": 0}\n{}\n', "[]\n[]\n"):
        (tmp_path / "study").mkdir(exist_ok=True)
        (tmp_path / "study" / "study.journal").write_text(content)
        done = study("--trials", "1", RATIO)
        assert done.code == 1
        assert "--directory: study/study.journal cannot be read" in done.err
        assert len(done.err.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_directory_that_cannot_be_written_is_named(study, tmp_path):
    (tmp_path / "study").mkdir(mode=0o500)
    if os.access(tmp_path / "study", os.W_OK):
        pytest.skip("root may write everywhere")
    done = study("--trials", "1", RATIO)
    assert done.code == 1
    assert "--directory: study cannot be written (Permission denied)" in done.err


@pytest.mark.parametrize("missing", ["optuna", "optuna.storages.journal"])
def test_a_missing_optuna_is_told_how_to_get(study, monkeypatch, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    done = study(RATIO)
    assert done.code == 1
    assert done.err == (
        "refine-study: needs optuna 4 or later: pip install 'runtime-refinement[study]'\n"
    )
    assert list(tmp_path.iterdir()) == []


# Several processes, and what they leave


SCORE = """
import os, pathlib, time
def score(model, batches):
    hanging = pathlib.Path("hanging")
    if "HANG" in os.environ:
        hanging.touch()
        time.sleep(600)
    while not hanging.exists():
        time.sleep(0.02)
    return {name: weight.detach().abs() for name, weight in model.named_parameters()}
"""


@pytest.mark.long
def test_two_processes_share_a_study_and_one_is_killed(study, monkeypatch, tmp_path):
    """The one is killed in its first trial; the other's first waits for that one's to begin."""
    (tmp_path / "mine.py").write_text(SCORE)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    searched = "--trials", "3", RATIO, "pruner.importance=mine.score"
    command = ["--directory", "study", *FIXED, *searched]
    killed = Forked(command, module="refine.study.cli", environment={"HANG": "1"})
    other = Forked(command, module="refine.study.cli")
    try:
        out, err = other.communicate(timeout=300)
    finally:
        killed.send_signal(signal.SIGKILL)
        other.send_signal(signal.SIGKILL)
    assert (other.returncode, err) == (0, "")
    assert len([line for line in out.splitlines() if "  best: trial " in line]) == 2
    states = [row["state"] for row in table()]
    assert sorted(states) == ["finished", "finished", "running"]
    left = states.index("running")
    assert f"trial {left}  " not in out
    done = study(*searched)
    assert (done.code, done.err) == (0, "")
    states = [row["state"] for row in table()]
    assert states == ["interrupted" if n == left else "finished" for n in range(4)]
    assert len({row["pruner.ratio"] for row in table()}) == 4


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_the_study_and_keeps_what_there_is(study, tmp_path, monkeypatch):
    assert study("--trials", "1", RATIO).code == 0
    monkeypatch.setattr(Progress, "epoch", lambda self, row: signal.raise_signal(signal.SIGINT))
    done = study("--trials", "3", RATIO)
    assert (done.code, done.err) == (130, "refine-study: interrupted\n")
    assert "refine-run --config-path study/best" in done.out
    assert [row["state"] for row in table()] == ["finished", "interrupted"]
    summary = yaml.safe_load((tmp_path / "study" / "trials" / "0001" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("interrupted", 1)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert study("--trials", "2", RATIO).code == 0
    assert [row["state"] for row in table()] == ["finished", "interrupted", "finished"]


def test_a_trial_of_a_living_process_is_left_to_it(study, tmp_path):
    assert study("--trials", "1", RATIO).code == 0
    ratio = {"pruner.ratio": FloatDistribution(0.1, 0.6)}
    processes, lock = tmp_path / "study" / ".processes", tmp_path / "study" / ".lock"
    with at_work(processes, lock) as alive:
        for owner in (alive, "gone"):
            stored().ask(ratio).set_user_attr(OWNER, owner)
        assert study("--trials", "3", RATIO).code == 0
        running, finished, failed = TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL
        assert [trial.state for trial in stored().trials] == [finished, running, failed, finished]
        assert [row["state"] for row in table()] == [
            "finished", "running", "interrupted", "finished",
        ]  # fmt: skip
        with locked(lock):
            assert living(processes) == {alive}
    assert study("--trials", "3", RATIO).code == 0
    states = [trial.state for trial in stored().trials]
    assert states == [finished, failed, failed, finished, finished]
    assert not any(PROBLEM in trial.user_attrs for trial in stored().trials)


def test_a_run_that_is_stopped_from_elsewhere_ends_the_study(study, monkeypatch):
    def run(config, display, directory):
        raise Stop("preempted", "the machine is wanted")

    monkeypatch.setattr(search, "run", run)
    assert study("--trials", "3", RATIO).code == 130
    assert [trial.state for trial in stored().trials] == [TrialState.FAIL]


def test_no_trial_is_begun_when_the_time_is_over(study, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    # Looked at: start 0, before trial 0 at 10, its own start and end, before trial 1 at 40.
    assert study("--trials", "9", "--timeout", "35", RATIO).code == 0
    assert len(table()) == 1


# The command


def test_what_sweeps_declare():
    declared = space.parsed(
        [
            "a=interval(1,2)", "b=tag(log,interval(1,2))", "c=range(1,6)", "d=range(1,6,2)",
            "e=int(interval(16,256))", "f=range(0.1,0.45,0.1)", "+g=x,null,'y z',[1,2]", "h=3",
            "i=tag(log,int(interval(1,9)))", "j=range(5,0,-2)", "~k",
        ]
    )  # fmt: skip
    assert declared.fixed == ["h=3", "~k"]
    assert {name: one for name, one in declared.searched.items() if name != "+g"} == {
        "a": FloatDistribution(1, 2),
        "b": FloatDistribution(1, 2, log=True),
        "c": IntDistribution(1, 5),
        "d": IntDistribution(1, 5, step=2),
        "e": IntDistribution(16, 256),
        "f": FloatDistribution(0.1, 0.4, step=0.1),
        "i": IntDistribution(1, 9, log=True),
        "j": IntDistribution(1, 5, step=2),
    }
    assert declared.searched["+g"].choices == ("x", "null", "'y z'", "[1,2]")
    assert declared.overrides({"a": 1.5, "+g": "'y z'"}) == ["h=3", "~k", "a=1.5", "+g='y z'"]


def test_groups_are_searched_and_the_directory_named_after_it(study, tmp_path, monkeypatch):
    models = "model._target_=refine.models.logistic,refine.models.nothing"
    arguments = ["--trials", "1", models, *FIXED[:-2], "replay=high_loss,none", FIXED[-1]]
    main(arguments)
    (place,) = (tmp_path / "results" / "studies").iterdir()
    assert place.name.startswith("_target_-replay-")
    assert len(table(place)) == 1
    arguments[1] = "2"
    main(arguments)
    assert len(table(place)) == 2  # the same command continues


def test_help_teaches_without_torch_and_optuna(tmp_path):
    code = (
        "import sys\nfrom refine.study.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        "    assert not {'torch', 'optuna', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    options = "--trials --timeout --directory --at-sparsity --pareto --grace --seed"
    for word in (*options.split(), "interval(", "range(", "tag(log,", "choice(", "never on test"):
        assert word in done.stdout
    assert done.stdout.count("\n  refine-study ") == 3
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_a_terminal_shows_a_bar_and_whole_lines(study, monkeypatch):
    from rich import console

    real = console.Console
    monkeypatch.setattr(
        console, "Console", lambda **options: real(**{"width": 200} | options, force_terminal=True)
    )
    done = study("--trials", "2", RATIO)
    assert done.code == 0
    assert "trial 0, epoch" in done.out
    lines = [line for line in done.out.splitlines() if "  best: trial " in line]
    assert len(lines) == 2
    assert "logistic on digits" not in done.out  # runs' own lines are in their run.log
