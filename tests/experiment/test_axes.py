"""Answers of different axes together."""

import csv
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import SMALL
from runs import fitting, refused
from torch import nn

from refine.config import choices, instantiate
from refine.errors import SettingError
from refine.pruning import allocation, granularity, importance
from refine.pruning.cut import Masked, sparsify_
from refine.refinement import RuntimeRefinement
from refine.regrowth import allocation as shares
from refine.regrowth import initial as initial_value
from refine.regrowth import score as scores
from refine.regrowth.regrowth import Regrowth
from refine.replay import Replay

RATIO = 0.5


def network():
    torch.manual_seed(0)  # LeakyReLU: every weight has a gradient
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.LeakyReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def data():
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 4, 6, 6, generator=draw), torch.randint(3, (8,), generator=draw))
        for _ in range(2)
    ]


def train(model, batches, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for inputs, targets in list(batches) * steps:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def refined(model, pruner=None, **settings):
    pruner = replace(pruner or Masked(), downscale_factor=1.0)
    return RuntimeRefinement(model, pruner, replay=Replay(steps=0).batches, **settings)


def functions(module):
    return instantiate.public_functions(module)


@pytest.mark.parametrize("unit", choices.GRANULARITIES)
@pytest.mark.parametrize("rule", choices.ALLOCATIONS)
def test_every_importance_goes_with_every_allocation_and_granularity(rule, unit):
    for name, score in functions(importance).items():
        if refused(name, rule, unit):
            continue
        model, batches = network(), data()
        score = score() if isinstance(score, type) else score
        pruner = Masked(score, functions(allocation)[rule], functions(granularity)[unit])
        refinement = refined(model, pruner)
        refinement.begin_epoch()
        train(model, batches)
        buffers = [buffer.clone() for buffer in model.buffers()]
        state = torch.get_rng_state()
        report = refinement.refinement_cycle(batches, RATIO)
        assert torch.get_rng_state().equal(state), name
        assert all(map(torch.equal, buffers, model.buffers())), name
        cut = sum(report.cut.values())
        assert cut == refinement.masks.prunable - refinement.masks.surviving
        if name == "none":
            assert cut == 0
        elif unit == "weight" and rule != "layerwise":
            assert cut == allocation.cut_count(refinement.masks.prunable, RATIO), name
        else:
            assert cut > 0, name
        train(model, batches)
        for tensor, mask in refinement.masks.items():
            assert not refinement.masks.weights()[tensor][~mask].any()


def test_what_does_not_combine_is_refused_with_the_reason():
    assert "already every layer's share" in str(refused("magnitude", "global", "n_m"))
    assert "its scores are of filters" in str(refused("similarity", "layerwise", "weight"))


@pytest.mark.parametrize("rule", choices.REGROWTH_ALLOCATIONS)
@pytest.mark.parametrize("which", [name for name in choices.REGROWTHS if name != "none"])
def test_every_regrowth_score_goes_with_every_allocation_and_initial_value(which, rule):
    for initial, start in functions(initial_value).items():
        model, batches = network(), data()
        train(model, batches)
        allocate = functions(shares)[rule]
        if rule == "controller":
            allocate = partial(allocate, episodes=2)
        regrowth = Regrowth(functions(scores)[which], allocate, start, budget=0.1)
        refinement = refined(model, regrowth=replace(regrowth, trial_steps=1))
        before = {name: weight.clone() for name, weight in refinement.masks.weights().items()}
        for cycle in range(2):
            report = refinement.refinement_cycle(batches, RATIO, validate=lambda network: 0.5)
            assert sum(report.grown.values()) == int(0.1 * refinement.masks.prunable), cycle
        weights = refinement.masks.weights()
        if initial == "zero":
            zeros = sum(
                int((weights[name][mask] == 0).sum()) for name, mask in refinement.masks.items()
            )
            assert zeros == sum(report.grown.values())
        if initial in ("stale", "reference"):  # nothing was trained in between
            for name, mask in refinement.masks.items():
                assert weights[name][mask].equal(before[name][mask]), initial
        train(model, batches)
        for name, mask in refinement.masks.items():
            assert not weights[name][~mask].any()
        trained = sum(int((weights[name] != 0).sum()) for name in weights)
        # Some have no gradient: what they feed is cut as a whole.
        assert trained > refinement.masks.surviving - 0.8 * sum(report.grown.values())


def test_only_what_is_back_trains_for_as_long_as_asked():
    model, batches = network(), data()
    train(model, batches)
    regrowth = Regrowth(scores.random, shares.uniform, budget=0.1, only_epochs=1)
    refinement = refined(model, regrowth=regrowth)
    refinement.refinement_cycle(batches, RATIO)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    free = {name: mask & (before[name] == 0) for name, mask in refinement.masks.items()}
    refinement.begin_epoch()
    train(model, batches)
    for name, parameter in model.named_parameters():
        moved = parameter != before[name]
        assert moved.equal(free[name]) if name in free else not moved.any(), name
    refinement.begin_epoch()
    train(model, batches)
    assert (model[0].bias != before["0.bias"]).all()


def test_a_floor_is_kept_by_the_largest_cut_that_bisection_finds():
    model = network()
    refinement = refined(model, Masked(allocation=allocation.global_))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def validate(network):  # as if every weight that is cut cost as much
        return sum(int((weight != 0).sum()) for weight in refinement.masks.weights().values())

    prunable = refinement.masks.prunable
    report = refinement.refinement_cycle(None, 0.9, validate=validate, floor=0.7 * prunable)
    assert 0.7 * prunable <= refinement.masks.surviving <= 0.7 * prunable + 0.01 * prunable
    assert report.ratio < 0.3
    for name, mask in refinement.masks.items():
        assert refinement.masks.weights()[name][mask].equal(before[name][mask])
    refused = refinement.refinement_cycle(None, 0.5, validate=validate, floor=prunable)
    assert sum(refused.cut.values()) == refused.ratio == 0


RUN = (
    *SMALL, "trainer.epochs=4", "dataset.validation_size=40", "dataset.image_size=8",
    "dataset.test_size=0",
)  # fmt: skip


def cycles(directory):
    with (directory / "cycles.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("schedule", "sparsities"),
    [
        (
            ["schedule=geometric", "pruner.ratio=0.5", "schedule.target_sparsity=0.8"],
            [0.5, 0.75, 0.8],
        ),
        (["schedule=list", "schedule.at=[0,2]", "schedule.sparsities=[0.3,0.6]"], [0.3, 0.6]),
        (["schedule=cubic", "schedule.target_sparsity=0.8"], [0.563, 0.770, 0.8]),
        (["schedule.of=all", "pruner.ratio=0.2"], [0.2, 0.4, 0.6]),
        (["schedule.by=step", "schedule.interval=4", "pruner.ratio=0.5"], [0.5, 0.75, 0.875]),
        (
            ["schedule=cyclic", "schedule.period=3", "schedule.start=0", "schedule.stop=3",
             "schedule.target_sparsity=0.8", "regrowth=random"],
            [0.8, 0.0, 0.7, 0.8],
        ),
        (["schedule=cosine", "regrowth=gradient", "pruner.initial_sparsity=0.5"], [0.5] * 3),
    ],
)  # fmt: skip
def test_schedules_give_their_sparsities(run, schedule, sparsities):
    full = "dataset.image_size=32"  # nearly all parameters can be cut
    settings = (*RUN, full, "pruner.allocation=global", "schedule.interval=1", *schedule)
    done = run(*fitting(*settings))
    found = [float(row["sparsity"]) for row in cycles(done.directory)]
    assert found == pytest.approx(sparsities, abs=2e-3)
    assert done.summary["status"] == "finished"


def test_adaptive_never_leaves_its_tolerance(run, monkeypatch):
    seen = []
    cycle = RuntimeRefinement.refinement_cycle

    def watched(self, loader, ratio, evaluate=None, **given):
        report = cycle(self, loader, ratio, evaluate=evaluate, **given)
        seen.append((given["floor"], sum(report.cut.values())))
        return report

    monkeypatch.setattr(RuntimeRefinement, "refinement_cycle", watched)
    done = run(
        *RUN, "trainer.epochs=6", "schedule=adaptive", "schedule.tolerance=0.05",
        "pruner.ratio=0.9", "replay=none", "pruner.downscale_factor=1.0",
        "trainer.optimizer.lr=1e-9",
    )  # fmt: skip
    # At this rate nothing trains: what an epoch measures is what the cycle left.
    epochs = [row for row in done.display.rows if not hasattr(row, "cycle")]
    best = 0.0
    for row in epochs:
        assert row.validation_accuracy >= best - 0.05 - 1e-9
        best = max(best, row.validation_accuracy)
    assert any(cut for _, cut in seen)


@pytest.mark.parametrize(
    "changes",
    [
        ("pruner.importance=movement",),
        ("regrowth=saliency", "regrowth.allocation=proportional", "regrowth.initial=stale"),
        ("regrowth=random", "regrowth.only_epochs=2", "regrowth.budget=0.05"),
        ("pruner.granularity=filter", "pruner.importance=similarity"),
        ("schedule.by=step", "schedule.interval=3", "regrowth=gradient"),
    ],
)
def test_it_is_resumed_after_a_stop(run, changes, monkeypatch):
    import signal

    from refine.errors import Stop
    from refine.training.step import Stepper

    settings = (*RUN, "save_model=true", *changes)
    whole = run(*settings, name="whole")
    step, taken = Stepper.__call__, []

    def counting(self, *batch):
        taken.append(1)
        if len(taken) == 13:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *batch)

    monkeypatch.setattr(Stepper, "__call__", counting)
    with pytest.raises(Stop):
        run(*settings, name="stopped")
    monkeypatch.setattr(Stepper, "__call__", step)
    stopped = whole.directory.parent / "stopped"
    resumed = run(*settings, f"resume={stopped}", name="stopped")
    weights = [(place / "model.safetensors").read_bytes() for place in (whole.directory, stopped)]
    assert weights[0] == weights[1]
    without = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in cycles(place)]
        for place in (whole.directory, stopped)
    ]
    assert without[0] == without[1]
    assert resumed.summary["cycles"] == whole.summary["cycles"] >= 2


def test_a_run_starts_from_another_ones_network(run):
    cut = ("schedule=one_shot", "schedule.target_sparsity=0.9")
    first = run(*fitting(*RUN, *cut), "save_model=true")
    grow = ("schedule=list", "schedule.at=[0]", "schedule.sparsities=[0.8]", "regrowth=random")
    second = run(
        *fitting(*RUN, *grow), f"start_from={first.directory}", "trainer.epochs=1", name="second",
    )  # fmt: skip
    row = next(iter(cycles(second.directory)))
    assert float(row["test_accuracy_before"]) == first.summary["test_accuracy"]
    assert int(row["cut_weights"]) == 0
    total, prunable = first.summary["total_parameters"], 90_208
    assert prunable - (total - second.summary["active_parameters"]) == round(prunable - 0.8 * total)
    active = [done.summary["active_parameters"] for done in (first, second)]
    assert int(row["grown_weights"]) == active[1] - active[0]
    assert second.summary["sparsity"] == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_dynamic_sparse_training_is_as_sparse_from_first_to_last(run, name):
    done = run(
        f"experiment={name}", "dataset=digits", *RUN, "schedule.interval=1", "schedule.stop=4"
    )
    active = {row.active_parameters for row in done.display.rows}
    assert len(active) == 1
    assert done.summary["sparsity"] == pytest.approx(0.9, abs=1e-5)
    exchanged = [row for row in done.display.rows if hasattr(row, "cycle")]
    assert len(exchanged) >= 3
    for row in exchanged:
        assert row.cut_weights == row.grown_weights > 0
        assert json.loads(row.cut_by_tensor) == json.loads(row.grown_by_tensor)
    shares = [row.ratio for row in exchanged]
    assert shares == sorted(shares, reverse=True)


def test_what_is_drawn_at_random_is_independent_of_the_initial_weights():
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    signs = {name: weight > 0 for name, weight in model.named_parameters()}
    refinement = refined(
        model,
        Masked(importance.random),
        regrowth=Regrowth(scores.random, shares.uniform, initial_value.stale, budget=0.1, seed=7),
    )
    sparsify_(model, refinement.masks, 0.2, allocation.erk)
    refinement.refinement_cycle(None, 0.3)
    for name, mask in refinement.masks.items():
        assert 0.4 < float(signs[name][mask].float().mean()) < 0.6


def test_a_cycle_that_was_cut_short_is_the_same_when_it_is_done_again(run, monkeypatch):
    settings = (
        *RUN, "regrowth=random", "regrowth.initial=stale", "replay=none", "pruner.ratio=0.3",
        "pruner.initial_sparsity=0.5", "trainer=sgd_one_cycle", "trainer.epochs=4",
        "schedule.interval=1", "trainer.batch_size=40", "save_model=true",
    )  # fmt: skip
    whole = run(*settings, name="whole")
    cycle, taken = RuntimeRefinement.refinement_cycle, []

    def killed(self, *given, **more):
        taken.append(1)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return cycle(self, *given, **more)

    monkeypatch.setattr(RuntimeRefinement, "refinement_cycle", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*settings, name="killed")
    monkeypatch.setattr(RuntimeRefinement, "refinement_cycle", cycle)
    killed_at = whole.directory.parent / "killed"
    run(*settings, f"resume={killed_at}", name="killed")
    weights = [(at / "model.safetensors").read_bytes() for at in (whole.directory, killed_at)]
    assert weights[0] == weights[1]


def test_adaptive_keeps_its_tolerance_before_anything_was_measured(run):
    first = run(*fitting(*RUN, "schedule=never"), "trainer.epochs=8", "save_model=true")
    assert first.summary["test_accuracy"] > 0.5
    second = run(
        *RUN, "schedule=adaptive", "schedule.start=0", "pruner.ratio=0.99", "replay=none",
        f"start_from={first.directory}", "trainer.epochs=1", name="second",
    )  # fmt: skip
    (row, *_) = cycles(second.directory)
    assert float(row["test_accuracy_after_cut"]) > float(row["test_accuracy_before"]) - 0.1
    assert int(row["cut_weights"]) > 0


def test_a_cycle_before_the_first_step_comes_by_step_too(run):
    done = run(*fitting(
        *RUN, "schedule=list", "schedule.by=step", "schedule.at=[0,4]", "trainer.epochs=1",
        "schedule.sparsities=[0.5,0.8]", "pruner.allocation=global",
    ))  # fmt: skip
    assert [int(row["step"]) for row in cycles(done.directory)] == [0, 4]
    assert done.summary["sparsity"] == pytest.approx(0.8, abs=1e-5)
    # The last row is a cycle without accuracies: the summary has the epoch's.
    assert done.summary["test_accuracy"] is not None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            "schedule=list schedule.at=[1,2] schedule.sparsities=[0.9,0.5]",
            "grow back after epoch 2",
        ),
        ("pruner.granularity=n_m pruner.layers={conv1:0}", "fixes every layer's share"),
        ("schedule=adaptive regrowth=random regrowth.initial=kaiming", "regrowth.initial: must be"),
        ("pruner.importance=movement schedule.start=0", "movement needs training"),
        ("regrowth=random regrowth.target_sparsity=0.9999", "regrowth.target_sparsity: must be"),
    ],
)
def test_what_would_fail_in_the_middle_is_refused_before(run, settings, says):
    with pytest.raises(SettingError, match=says):
        run(*fitting(*RUN, *settings.split()))


def test_a_regrowth_that_is_judged_needs_data():
    regrowth = Regrowth(scores.random, shares.controller, budget=0.1)
    with pytest.raises(ValueError, match="needs batches"):
        refined(network(), regrowth=regrowth).refinement_cycle(
            None, RATIO, validate=lambda network: 0.5
        )


def test_a_network_with_tied_weights_starts_another(run, tmp_path, monkeypatch):
    (tmp_path / "tied.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, image_shape):\n"
        "    first, second = nn.Linear(64, 64), nn.Linear(64, 64)\n"
        "    second.weight = first.weight\n"
        "    return nn.Sequential(\n"
        "        nn.AdaptiveAvgPool2d(8), nn.Flatten(1), nn.Linear(192, 64), first, nn.ReLU(),\n"
        "        second, nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = (*RUN, "model._target_=tied.net", "save_model=true", "trainer.epochs=1")
    first = run(*settings)
    second = run(
        *fitting(*settings, "schedule=one_shot", "schedule.start=0"),
        f"start_from={first.directory}", name="second",
    )  # fmt: skip
    (row, *_) = cycles(second.directory)
    assert float(row["test_accuracy_before"]) == first.summary["test_accuracy"]
