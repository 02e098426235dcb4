"""Replay, distillation, recovery and cache together, in runs."""

import itertools
import json
import shutil

import pytest
import torch
from conftest import SMALL
from runs import fitting, rows, same

from refine.config import config_directory
from refine.errors import SettingError, TrainingError
from refine.training.step import Stepper

# Four steps an epoch, cycles after the second and the third: there is time to rewind to.
TINY = (
    *SMALL, "dataset.subset_size=80", "dataset.validation_size=20", "trainer.batch_size=15",
    "trainer.epochs=4", "schedule.start=2", "model=logistic", "dataset.image_size=8",
    "replay.steps=2", "replay.buffer_size=40", "replay.batch_size=20", "save_model=true",
    "replay.vae.training_steps=3", "dataset.test_size=0",
)  # fmt: skip


def options(group):
    return sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))


REPLAYS, TEACHERS, RECOVERIES = map(options, ("replay", "distillation", "recovery"))
# Every replay with every recovery, every teacher with each of both: 4 teachers go round.
TRIPLES = [
    (replay, TEACHERS[(i + j) % len(TEACHERS)], recovery)
    for (i, replay), (j, recovery) in itertools.product(enumerate(REPLAYS), enumerate(RECOVERIES))
]


@pytest.fixture
def teacher(undisturbed):
    return undisturbed(*fitting(*TINY, "schedule=never")).directory


@pytest.fixture
def taken(monkeypatch):
    """The learning rate of every step of an epoch, from here on."""
    rates, step = [], Stepper.__call__

    def noting(self, images, labels, *replayed):
        if not replayed:
            rates.append(self.optimizer.param_groups[0]["lr"])
        return step(self, images, labels, *replayed)

    monkeypatch.setattr(Stepper, "__call__", noting)
    return rates


def settings_of(replay, teaching, recovery, teacher):
    settings = [f"replay={replay}", f"distillation={teaching}", f"recovery={recovery}", *TINY]
    if replay == "none":
        settings.append("replay.steps=0")
    if teaching != "none":
        settings.append("distillation.during=cycle")
    if teaching == "dense":
        settings.append(f"distillation.source={teacher}")
    return settings


def test_the_triples_hold_every_pair():
    for groups in ((0, 1), (0, 2), (1, 2)):
        found = {tuple(triple[i] for i in groups) for triple in TRIPLES}
        sizes = [len((REPLAYS, TEACHERS, RECOVERIES)[i]) for i in groups]
        assert len(found) == sizes[0] * sizes[1]


@pytest.mark.parametrize("triple", TRIPLES[:: len(RECOVERIES) + 1], ids="-".join)
def test_a_stopped_run_is_resumed_with_them(triple, teacher, stopped_and_resumed):
    # 8 steps, the cycle, 2 of its replay: the 13th is in the epoch after the cut.
    assert same(*stopped_and_resumed(11, *settings_of(*triple, teacher)))


@pytest.mark.long
@pytest.mark.parametrize("triple", TRIPLES, ids="-".join)
def test_every_pair_runs_its_cycles_and_survives_a_resume(triple, teacher, stopped_and_resumed):
    for number in (9, 11):
        whole, stopped = stopped_and_resumed(number, *settings_of(*triple, teacher))
        assert len(rows(whole, "cycles.csv")) == 2
        assert same(whole, stopped)
        shutil.rmtree(stopped)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_cache_of_a_run_is_resumed_too(kind, stopped_and_resumed):
    settings = (*TINY, f"cache={kind}", "regrowth=reference", "regrowth.source=cache",
                "regrowth.initial=reference", "regrowth.budget=0.05")  # fmt: skip
    whole, stopped = stopped_and_resumed(13, *settings)
    assert same(whole, stopped)
    sizes = [int(row["cache_bytes"]) for row in rows(whole, "cycles.csv")]
    assert 0 < sizes[0] < sizes[1]
    kept = {path.name for path in whole.glob("cache/*")}
    assert len(kept) == (4 if kind == "disk" else 0)  # two cuts, two networks before them


def test_what_was_cut_grows_back_with_its_values(run):
    done = run(*TINY, "cache=memory", "regrowth=reference", "regrowth.source=cache",
               "regrowth.initial=reference", "replay=none")  # fmt: skip
    for row in rows(done.directory, "cycles.csv"):
        assert row["cut_weights"] == row["grown_weights"] != "0"
        assert row["test_accuracy_after_replay"] != row["test_accuracy_after_cut"]


def test_memory_is_bounded_and_reported(run):
    for replay in REPLAYS:
        done = run(*settings_of(replay, "none", "none", None), name=replay)
        examples = {int(row["memory_examples"]) for row in rows(done.directory, "cycles.csv")}
        size = {int(row["memory_bytes"]) for row in rows(done.directory, "cycles.csv")}
        if replay in ("none", "training"):
            assert examples == size == {0}
        elif replay == "generative":
            assert examples == {0}
            assert min(size) > 0
        else:
            assert examples == {40}
            assert min(size) >= 40 * 3 * 8 * 8 * 4


@pytest.mark.parametrize("recovery", ["fine_tune", "slr", "clr", "one_cycle", "lr_rewind"])
def test_the_rate_follows_the_curve_after_each_cut(run, recovery, taken):
    from refine import recovery as recoveries
    from refine.recovery import Rates

    run(*TINY, f"recovery={recovery}", "trainer=sgd_cosine", "trainer.epochs=6", "schedule.start=3",
        "schedule.stop=5", "schedule.interval=2", "trainer.batch_size=15")  # fmt: skip
    assert len(taken) == 6 * 4
    cosine = [0.1 * (1 + torch.cos(torch.tensor(torch.pi * e / 3)).item()) / 2 for e in range(3)]
    original = [rate for rate in cosine for _ in range(4)]
    assert taken[:12] == pytest.approx(original)
    rates = Rates(0.1, max(original[-1], 0.001), tuple(original))
    curve = getattr(recoveries, recovery)
    expected = [curve(at, 8, rates) for at in range(8)] + [curve(at, 4, rates) for at in range(4)]
    assert taken[12:] == pytest.approx(expected, rel=1e-6)


def test_weights_go_back_to_the_epoch_that_is_as_long_before_the_cut(run):
    done = run(*TINY, "recovery=weight_rewind", "trainer.epochs=5", "schedule.start=3",
               "schedule.interval=1", "schedule.stop=3", "replay=none")  # fmt: skip
    # The cut after epoch 3 leaves two epochs: back to the end of the first.
    epochs, (cycle,) = rows(done.directory, "metrics.csv"), rows(done.directory, "cycles.csv")
    assert float(cycle["test_accuracy_after_replay"]) == pytest.approx(
        float(epochs[0]["test_accuracy"]), abs=0.05
    )
    assert epochs[0]["test_accuracy"] != epochs[2]["test_accuracy"]


STREAM = (
    *TINY, "dataset=split", "dataset.subset_size=200", "dataset.image_size=8", "trainer.epochs=10",
    "schedule.start=null", "schedule.interval=1", "dataset.validation_size=40",
    "trainer.batch_size=10", "replay.steps=4",
)  # fmt: skip


@pytest.mark.parametrize("replay", ["reservoir", "herding", "generative", "training"])
def test_a_stream_is_resumed_after_a_stop(replay, stopped_and_resumed):
    for number in (21,):  # in the third epoch, the first of the second task
        whole, stopped = stopped_and_resumed(number, f"replay={replay}", *STREAM)
        assert same(whole, stopped)


def test_a_stream_is_measured_on_every_task_so_far(run):
    done = run("replay=reservoir", *STREAM)
    for row in rows(done.directory, "metrics.csv"):
        each = json.loads(row["task_accuracies"])
        epoch = int(row["epoch"])
        assert int(row["task"]) == len(each) == (epoch + 1) // 2
        assert float(row["average_accuracy"]) == pytest.approx(sum(each) / len(each))
    assert done.summary["forgetting"] == pytest.approx(float(row["forgetting"]))
    ends = [
        json.loads(row["task_accuracies"])
        for row in rows(done.directory, "metrics.csv")
        if int(row["epoch"]) % 2 == 0
    ]
    lost = [max(end[task] for end in ends[task:4]) - ends[-1][task] for task in range(4)]
    assert done.summary["forgetting"] == pytest.approx(sum(lost) / 4)


def test_replay_keeps_what_training_alone_forgets(run):
    kept, lost = (
        run(f"replay={kind}", *STREAM, "trainer.optimizer.lr=0.01", "replay.steps=20", name=kind)
        for kind in ("class_balanced", "training")
    )
    assert kept.summary["test_accuracy"] > lost.summary["test_accuracy"] + 0.2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("distillation=dense", "distillation.source: is not set"),
        ("distillation=dense distillation.source=nowhere", "distillation.source: cannot read"),
        ("distillation=self replay=none replay.steps=0", "distillation.during: replay has no"),
        (
            "regrowth=reference regrowth.source=cache",
            "regrowth.source: is cache, and there is none; set cache=memory",
        ),
        ("recovery=clr recovery.cycle_momentum=true trainer=sgd_step trainer.epochs=4 "
         "trainer.optimizer.momentum=0 trainer.optimizer.nesterov=false",
         "recovery.cycle_momentum: SGD has no momentum"),
        ("recovery=slr recovery.cycle_momentum=true", "recovery.cycle_momentum: goes with clr"),
        ("recovery=lr_rewind schedule.start=0", "recovery.original_epochs: is needed"),
        ("recovery=weight_rewind schedule.start=0", "recovery.rewind_weights: needs training"),
        ("recovery=weight_rewind recovery.rewind_to=2", "recovery.rewind_to: must be below 2"),
        ("recovery=weight_rewind schedule=adaptive", "recovery.rewind_weights: would undo"),
        ("recovery.curve=nothing", "recovery.curve: there is no 'nothing'; known: none"),
        ("dataset=split trainer.epochs=7", "trainer.epochs: 7 must be a multiple of the 5 tasks"),
        ("dataset.split=classes dataset.tasks=11", "dataset.tasks: 10 classes are too few"),
        ("dataset.split=permuted dataset.augment=flip trainer.epochs=5",
         "dataset.augment: permuted"),
        ("dataset.split=classes trainer.epochs=5 dataset.validation_size=3",
         "dataset.validation_size: there are no"),
        ("replay=reservoir replay.selection=entropy", "replay.storage: reservoir uses no rank"),
        ("replay=training replay.sampling=proportional", "replay.sampling: there is no memory"),
        ("regrowth=random cache=memory regrowth.source=cache", "regrowth.source: is used only by"),
        ("recovery=slr recovery.rewind_to=1", "recovery.rewind_to: needs"),
        ("recovery=slr recovery.max_lr=inf", "recovery.max_lr: must be finite"),
        ("recovery.curve=torch.sin", "recovery.curve: torch.sin fails"),
        ("recovery=fine_tune schedule.start=0", "recovery.original_epochs: is needed"),
        ("replay.selection=torch.sin", "replay: "),
        ("+replay.vae.nope=3", "replay.vae.nope: there is no such setting"),
        ("dataset.test_size=361", "dataset.test_size: 361 is more than the 360"),
        ("replay=uncertainty replay.selection=disagreement",
         "replay: selection=disagreement needs a network with dropout"),
        ("replay.storage=reservor", "replay.storage: there is no 'reservor'; did you mean"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said_before_anything_is_written(
    run, tmp_path, settings, says
):
    with pytest.raises(SettingError) as refused:
        run(*TINY, *settings.split())
    assert str(refused.value).startswith(says)
    assert str(refused.value).count("\n") < 2
    assert not (tmp_path / "run").exists()


def test_a_stream_has_as_many_epochs_as_it_began_with(run, command):
    done = run("replay=reservoir", *STREAM)
    more = command(f"resume={done.directory}", "trainer.epochs=20")
    assert more.code == 1
    assert more.err.startswith("refine-run: trainer.epochs: was 10 in")


def test_what_fails_at_a_tasks_end_is_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "mine_at_the_end.py").write_text(
        "import torch\n"
        "calls = []\n"
        "def rank(examined, generator):\n"
        "    calls.append(1)\n"
        "    worth = float('inf') if len(calls) > 1 else 1.0\n"
        "    return torch.full((len(examined.targets),), worth)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TrainingError, match=r"the end of task 1 failed: .* not finite"):
        run(*fitting(*STREAM, "schedule=never"), "replay.selection=mine_at_the_end.rank")


def test_adaptive_measures_a_streams_tasks_anew(run):
    done = run(
        *STREAM, "replay=none", "schedule=adaptive", "schedule.tolerance=0.3",
        "dataset.subset_size=400", "dataset.validation_size=100", "trainer.optimizer.lr=0.01",
    )  # fmt: skip
    cut = {int(row["epoch"]): int(row["cut_weights"]) for row in rows(done.directory, "cycles.csv")}
    assert any(cut[epoch] for epoch in cut if epoch > 2)


def test_a_finished_run_is_resumed_to_more_epochs_with_its_recovery(run):
    settings = fitting(*TINY, "schedule=one_shot", "schedule.start=2", "trainer.epochs=4")
    settings.append("checkpoint.keep=true")
    for recovery in ("one_cycle", "weight_rewind"):
        done = run(*settings, f"recovery={recovery}", name=recovery)
        run(*settings, f"recovery={recovery}", "trainer.epochs=8", f"resume={done.directory}",
            name=recovery)  # fmt: skip
        rates = [float(row["learning_rate"]) for row in rows(done.directory, "metrics.csv")]
        assert len(rates) == 8
        assert rates[4] > 1e-5  # the rest of a longer curve, not the end of the short one


def test_by_step_the_original_schedule_ends_with_the_first_cut(run, taken):
    run(*TINY, "trainer=adam_one_cycle", "trainer.batch_size=15", "trainer.epochs=4",
        "schedule.by=step", "schedule.start=6", "schedule.interval=6",
        "recovery=lr_rewind")  # fmt: skip
    assert taken[5] < 1e-6 < taken[2]
    assert taken[6:12] == pytest.approx(taken[:6])
