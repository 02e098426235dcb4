"""Runs that take channels out: the command, and what it leaves."""

import csv
import json

import pytest
import torch
from conftest import SMALL
from runs import fitting, same

from refine import models
from refine.cli import run as cli
from refine.config import config_directory
from refine.errors import SettingError
from refine.evaluation.cost import macs
from refine.export.trained import Trained

pytest.importorskip("torch_pruning")
# Four steps an epoch; a cut after the second epoch and one after the third.
TINY = (
    *SMALL, "pruner=structured", "dataset.subset_size=80", "dataset.image_size=8",
    "trainer.batch_size=20", "trainer.epochs=4", "schedule.start=2", "replay.steps=2",
    "replay.buffer_size=40", "replay.batch_size=20", "pruner.steps=5", "save_model=true",
)  # fmt: skip


def cycles(directory):
    with (directory / "cycles.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_reaches_its_target_by_equal_factors_and_leaves_the_smaller_network(run):
    done = run(*TINY, "pruner.target_speedup=4")
    rows = cycles(done.directory)
    dense = macs(Trained(done.directory).untrained(), (3, 8, 8))
    speedups = [dense / int(row["macs"]) for row in rows]
    assert speedups == [pytest.approx(2, rel=0.05), pytest.approx(4, rel=0.05)]
    assert speedups[-1] >= 4
    network = Trained(done.directory).network()
    assert macs(network, (3, 8, 8)) == int(rows[-1]["macs"]) == done.summary["macs"]
    assert done.summary["dense_macs"] == dense
    assert done.summary["speedup"] == dense / done.summary["macs"]
    assert sum(p.numel() for p in network.parameters()) == done.summary["active_parameters"]
    assert int(rows[0]["channels"]) > int(rows[1]["channels"])


def test_ratios_are_of_channels_and_sparsities_of_parameters(run):
    done = run(*TINY, "pruner.ratio=0.25", "pruner.allocation=layerwise", name="ratio")
    assert [int(row["channels"]) for row in cycles(done.directory)] == [216, 162]
    done = run(*TINY, "schedule=geometric", "schedule.target_sparsity=0.5", "pruner.ratio=0.4")
    assert 0.5 <= done.summary["sparsity"] < 0.52


COMBINATIONS = [
    ("pruner.target_speedup=3", "regularizer=growing_reg", "trainer=sgd_cosine"),
    ("pruner.criterion=taylor", "distillation=self", "distillation.during=cycle"),
    ("pruner.criterion=random", "distillation=ema", "recovery=weight_rewind"),
    ("pruner.target_parameters=20000", "recovery=slr", "replay=reservoir"),
    ("pruner.criterion=bn_scale", "regularizer=bn_scale", "regularizer.warmup=2", "replay=vae"),
    ("schedule.by=step", "schedule.start=6", "schedule.interval=5", "regularizer=group_norm"),
    ("schedule=adaptive", "dataset.validation_size=20", "schedule.tolerance=0.2"),
    ("start_from", "pruner.target_speedup=2"),
]


# Before the first cut, in the epoch between both, and after the second; the first and the last of
# these, and most of the combinations, are in the long part.
@pytest.mark.parametrize(
    ("settings", "step"),
    [
        pytest.param(
            settings,
            step,
            id=f"{settings[0].partition('=')[2] or settings[0]}-{step}",
            marks=[] if step == 11 and number in (0, 2, 5) else pytest.mark.long,
        )
        for number, settings in enumerate(COMBINATIONS)
        for step in (7, 11, 15)
    ],
)
def test_a_stopped_run_is_resumed_to_the_bit(settings, step, undisturbed, stopped_and_resumed):
    given = [entry.replace("replay=vae", "replay=generative") for entry in settings]
    if given[0] == "start_from":
        before = undisturbed(*TINY, "trainer.epochs=3", "pruner.ratio=0.2").directory
        given[0] = f"start_from={before}"
    given = [entry for entry in given if "=" in entry]
    groups = [entry for entry in given if "." not in entry.partition("=")[0]]
    rest = [entry for entry in given if entry not in groups]
    tiny = [entry for entry in TINY if not ("trainer=sgd_cosine" in groups and "lr" in entry)]
    assert same(*stopped_and_resumed(step, *groups, *tiny, "replay.vae.training_steps=3", *rest))


def test_more_epochs_and_a_network_to_begin_with(run):
    first = run(*TINY, "pruner.ratio=0.3", "checkpoint.keep=true")
    more = run(
        *TINY, "pruner.ratio=0.3", "trainer.epochs=5", f"resume={first.directory}", name="run"
    )
    assert more.summary["cycles"] == 3
    # A smaller network can be masked as any other.
    masked = run(
        *TINY,
        "pruner=magnitude",
        f"start_from={first.directory}",
        "pruner.ratio=0.5",
        name="masked",
    )
    network = Trained(masked.directory).network()
    nonzero = sum(int(p.count_nonzero()) for p in network.parameters())
    assert nonzero <= masked.summary["active_parameters"] < first.summary["active_parameters"]
    assert masked.summary["sparsity"] > first.summary["sparsity"]


def test_a_smaller_network_is_trained_on_with_a_regularizer(run, command):
    smaller = run(*TINY, "pruner.target_speedup=3", name="smaller").directory
    for kind in ("growing_reg", "group_norm", "bn_scale"):
        done = run(
            *TINY, f"start_from={smaller}", f"regularizer={kind}", "pruner.target_speedup=5",
            name=kind,
        )  # fmt: skip
        assert done.summary["speedup"] >= 5
    done = command(*TINY, f"start_from={smaller}", "pruner.target_speedup=2", "output_dir=run")
    assert (done.code, "target already" in done.err) == (1, True)


def test_the_stages_of_sparse_training_are_recorded(run):
    done = run(
        *fitting("experiment=sparse_training_small", *SMALL, "schedule.start=3"),
        "dataset=digits", "dataset.image_size=8", "dataset.test_size=0", "trainer.epochs=4",
        "regularizer.start=1", "regularizer.stop=3", "pruner.steps=5",
        "trainer.lr_scheduler.lengths=[1,2,1]",
    )  # fmt: skip
    stages = {entry["stage"]: entry for entry in done.summary["stages"]}
    assert list(stages) == ["pretrained", "sparse training", "cut", "fine-tuned"]
    assert [entry["epoch"] for entry in stages.values()] == [1, 3, 3, 4]
    with (done.directory / "metrics.csv").open(encoding="utf-8") as file:
        epochs = [float(row["test_accuracy"]) for row in csv.DictReader(file)]
    row = cycles(done.directory)[0]
    assert [entry["test_accuracy"] for entry in stages.values()] == [
        epochs[0], epochs[2], float(row["test_accuracy_after_replay"]), epochs[3],
    ]  # fmt: skip
    rates = [float(r["learning_rate"]) for r in csv.DictReader(
        (done.directory / "metrics.csv").open(encoding="utf-8")
    )]  # fmt: skip
    assert rates == [0.05, 0.01, 0.01, 0.01]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["pruner.target_speedup=50", "pruner.min_layer_density=0.5"], "is as far as it goes"),
        (["pruner.target_speedup=1"], "must be above 1"),
        (["pruner.target_speedup=2", "pruner.target_macs=1000"], "exclude each other"),
        (["pruner.target_macs=999999999999"], "must be below"),
        (["pruner.target_speedup=2", "schedule=cubic"], "one_shot or periodic"),
        (
            ["pruner.target_speedup=2", "schedule=one_shot", "schedule.target_sparsity=0.5"],
            "exclude each other",
        ),
        (["pruner.target_speedup=2", "schedule.start=9", "trainer.epochs=9"], "no cycle"),
        (["schedule=cubic", "schedule.target_sparsity=0.995"], "is as far as it goes"),
        (["schedule=list", "schedule.at=[3]", "schedule.sparsities=[0.999]"], "as far as it goes"),
        (["pruner.importance=magnitude"], "pruner.importance: must be none"),
        (["pruner.granularity=filter"], "pruner.granularity: must be weight"),
        (["pruner.allocation=lamp"], "global or layerwise"),
        (["regrowth=random"], "do not grow"),
        (["cache=memory"], "keeps single weights"),
        (["distillation=self", "distillation.match=features"], "set logits"),
        (["pruner.layers={conv1: 0.3}"], "only give 0"),
        (["pruner.layers={nothing*: 0}"], "is no layer"),
        (["pruner.criterion=bn_scal"], "did you mean bn_scale"),
        (["pruner.round_to=0"], "at least 1"),
        (["model=logistic"], "no channel that can be taken out"),
        (["regularizer=bn_scale", "model=logistic"], "regularizer"),
        (["regularizer=group_norm", "regularizer.stop=1", "regularizer.start=1"], "above"),
        (["regularizer=l1", "regularizer.start=4"], "must be below 4"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_said_before_anything_is_trained(settings, problem, command, tmp_path):
    done = command(*fitting(*TINY, *settings), "output_dir=run")
    assert done.code == 1
    assert problem in done.err
    assert len(done.err.splitlines()) <= 2
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_settings_of_channels_need_the_pruner(command):
    done = command("pruner.target_speedup=2")
    assert (done.code, "set pruner=structured" in done.err) == (1, True)


def test_how_much_a_schedule_cuts_is_the_targets_matter(run):
    given = ("pruner.ratio=0.6", "schedule.of=all")
    done = run(*TINY, "pruner.target_speedup=2", *given, in_vain=("pruner.ratio", "schedule.of"))
    assert done.summary["speedup"] >= 2


def test_without_a_last_epoch_sparse_training_ends_with_the_last_cut(run):
    done = run(*TINY, "pruner.ratio=0.1", "regularizer=l1")
    stages = [(entry["stage"], entry["epoch"]) for entry in done.summary["stages"]]
    assert stages == [("sparse training", 3), ("cut", 3), ("fine-tuned", 4)]


def test_without_the_library_the_remedy_is_named(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(SettingError, match=r"^pruner: .*runtime-refinement\[structured\]"):
        run(*TINY)


def test_the_controls_run(run):
    target = ("pruner.target_speedup=2", "control=dense")
    dense = run(*TINY, *target, name="dense", in_vain=("pruner.target_speedup",))
    assert dense.summary["sparsity"] == 0
    once = run(*fitting(*TINY, "pruner.target_speedup=2", "control=one_shot"), name="once")
    assert once.summary["cycles"] == 1
    assert once.summary["speedup"] >= 2


def test_the_preset_of_the_published_experiment_composes():
    config = cli.composed(["experiment=sparse_training"])
    assert config.trainer.epochs == sum(config.trainer.lr_scheduler.lengths) == 400
    assert config.regularizer.stop == config.schedule.start == 300
    assert config.pruner.target_speedup == 2.11
    assert (config_directory() / "experiment" / "sparse_training.yaml").is_file()


def test_stages_have_their_rates_and_weight_decay():
    from refine.training.optim import Stages

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, weight_decay=0.1)
    scheduler = Stages(optimizer, [3, 2, 2], [0.1, 0.01, 0.02], [[2], [], [1]], [0.5, 0.0, 0.25])
    seen = []
    for _ in range(8):
        group = optimizer.param_groups[0]
        seen.append((round(group["lr"], 9), group["weight_decay"]))
        optimizer.step()
        scheduler.step()
    assert seen == [
        (0.1, 0.5), (0.1, 0.5), (0.01, 0.5), (0.01, 0.0), (0.01, 0.0), (0.02, 0.25),
        (0.002, 0.25), (0.002, 0.25),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="one for each stage"):
        Stages(optimizer, [1], [0.1, 0.2], [[]])


def test_summary_and_checkpoint_hold_only_data(run):
    done = run(*TINY, "pruner.target_speedup=2", "checkpoint.keep=true")
    json.dumps(done.summary)
    state = torch.load(
        __import__("io").BytesIO(
            (done.directory / "checkpoint.pt").read_bytes().partition(b"\n")[2]
        ),
        weights_only=True,
    )
    weights = sum(tensor.numel() for name, tensor in state["model"].items() if "bn" not in name)
    assert weights < 0.9 * 582_346


class TwoHeaded(torch.nn.Sequential):
    """Gives two answers in training, as Inception does."""

    def __init__(self, num_classes=10, aux_logits=True):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, num_classes))
        self.aux_logits = aux_logits

    def forward(self, x):
        logits = super().forward(x)
        return (logits, logits) if self.training and self.aux_logits else logits


def test_auxiliary_heads_are_refused_before_the_search(command, monkeypatch):
    monkeypatch.setattr(models, "two_headed", TwoHeaded, raising=False)
    given = (*TINY, "model._target_=refine.models.two_headed", "output_dir=run")
    done = command(*given)
    assert done.code == 1
    assert "auxiliary heads" in done.err
    assert "+model.aux_logits=false" in done.err
    done = command(*given, "+model.aux_logits=false")
    assert "no channel that can be taken out" in done.err  # as it has but one layer
