"""Which runs belong together, and what do they say together?"""

import statistics

import pytest
import scipy.stats
from recorded import grouped, names, record, rows, sweep

from refine.report import groups
from refine.report.cli import main

# Which runs belong together?


def test_the_seed_and_where_a_run_was_do_not_tell_runs_apart(tmp_path):
    record(tmp_path / "a", 0.7, seed=1)
    elsewhere = {"device": "cuda", "output_dir": "b", "save_model": False}
    told = {"tracker": {"_target_": "refine.tracking.mlflow.MLflow", "uri": "sqlite:///x.db"}}
    record(tmp_path / "b", 0.8, seed=2, dataset__root="/elsewhere", **elsewhere, **told)
    (group,) = grouped(tmp_path).groups
    assert group.name == "all runs"
    assert [run.seed for run in group.runs] == [1, 2]


def test_groups_are_named_by_what_differs_and_sorted_by_number(tmp_path):
    for ratio in (0.1, 0.05):
        for interval in (10, 2):
            for seed in (1, 2):
                place = tmp_path / f"{ratio},{interval},{seed}"
                record(place, 0.7, seed, pruner__ratio=ratio, schedule__interval=interval)
    assert names(tmp_path) == [
        "pruner.ratio=0.05 schedule.interval=2",
        "pruner.ratio=0.05 schedule.interval=10",
        "pruner.ratio=0.1 schedule.interval=2",
        "pruner.ratio=0.1 schedule.interval=10",
    ]
    assert [len(group.runs) for group in grouped(tmp_path).groups] == [2, 2, 2, 2]


def test_settings_of_different_nodes_are_all_named_even_if_they_go_together(tmp_path):
    record(tmp_path / "a", 0.7, pruner__ratio=0.1, schedule__interval=1)
    record(tmp_path / "b", 0.7, pruner__ratio=0.2, schedule__interval=2)
    assert names(tmp_path) == [
        "pruner.ratio=0.1 schedule.interval=1",
        "pruner.ratio=0.2 schedule.interval=2",
    ]


def test_what_one_choice_sets_along_is_told_once(tmp_path, capsys):
    record(tmp_path / "a", 0.7)
    record(tmp_path / "b", 0.7, pruner__importance="random")
    record(tmp_path / "c", 0.7, pruner__importance="none", pruner__downscale_factor=1.0)
    assert names(tmp_path) == [
        "pruner.importance=magnitude",
        "pruner.importance=none",
        "pruner.importance=random",
    ]
    assert main([str(tmp_path), "--format", "markdown"]) == 0
    told = "With pruner.importance differs pruner.downscale_factor."
    assert told in capsys.readouterr().out


def test_a_kind_names_a_group_before_its_arguments(tmp_path):
    record(tmp_path / "a", 0.7)
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}
    record(tmp_path / "b", 0.7, trainer__optimizer=sgd, trainer__epochs=5)
    grouping = grouped(tmp_path)
    assert [group.name for group in grouping.groups] == [
        "trainer.optimizer=Adam",
        "trainer.optimizer=SGD",
    ]
    momentum = [group.settings["trainer.optimizer.momentum"] for group in grouping.groups]
    assert momentum == ["unset", "0.9"]


def test_what_does_not_follow_from_another_setting_is_told(tmp_path):
    record(tmp_path / "a", 0.7, pruner__ratio=0.1)
    record(tmp_path / "b", 0.7, pruner__ratio=0.2)
    record(tmp_path / "c", 0.7, pruner__ratio=0.3, pruner__importance="random")
    assert names(tmp_path) == [
        "pruner.importance=magnitude pruner.ratio=0.1",
        "pruner.importance=magnitude pruner.ratio=0.2",
        "pruner.importance=random pruner.ratio=0.3",
    ]


def test_the_header_that_makes_a_configuration_run_again_is_no_setting(tmp_path):
    record(tmp_path / "a", 0.7, hydra={"run": {"dir": "a"}}, defaults=["schema"])
    record(tmp_path / "b", 0.7)
    assert names(tmp_path) == ["all runs"]


def test_import_paths_are_told_in_full_where_their_last_words_agree(tmp_path):
    record(tmp_path / "a", 0.7, model={"_target_": "mine.Net"})
    record(tmp_path / "b", 0.7, model={"_target_": "yours.Net"})
    assert names(tmp_path) == ["model=mine.Net", "model=yours.Net"]


def test_one_and_one_point_zero_are_one_value(tmp_path):
    record(tmp_path / "a", 0.7, seed=1, pruner__downscale_factor=1)
    record(tmp_path / "b", 0.7, seed=2, pruner__downscale_factor=1.0)
    assert names(tmp_path) == ["all runs"]


# What do they say together?


def test_statistics_by_hand(tmp_path, capsys):
    sweep(tmp_path)
    first, second, end = rows(capsys, tmp_path)
    assert [row["cycles"] for row in (first, second, end)] == [0, 1, "end"]
    assert {row["n"] for row in (first, second, end)} == {3}
    # The last epoch of a level is 0.3 and 0.1 below the end, which is the summary's.
    assert first["test_accuracy_mean"] == pytest.approx(0.72 - 0.3)
    assert second["test_accuracy_mean"] == pytest.approx(0.72 - 0.1)
    assert end["test_accuracy_mean"] == pytest.approx(0.72)
    assert end["test_accuracy_sd"] == pytest.approx(0.02)
    half = 4.30265273 * 0.02 / 3**0.5  # Student's t for 97.5 % and 2 degrees of freedom
    assert end["test_accuracy_t95_low"] == pytest.approx(0.72 - half)
    assert end["test_accuracy_t95_high"] == pytest.approx(0.72 + half)
    assert [row["sparsity_mean"] for row in (first, second, end)] == [0.0, 0.15, 0.3]
    assert end["sparsity_sd"] == 0.0
    assert end["sparsity_t95_low"] == end["sparsity_t95_high"] == 0.3


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_interval_agrees_with_scipy_stats(n):
    values = [0.7 + 0.01 * (7 * number % 11) for number in range(n)]
    spread = groups.spread(values)
    error = statistics.stdev(values) / n**0.5
    low, high = scipy.stats.t.interval(0.95, n - 1, statistics.mean(values), error)
    assert spread.mean - spread.half_width == pytest.approx(low, abs=1e-12)
    assert spread.mean + spread.half_width == pytest.approx(high, abs=1e-12)
    assert spread.deviation == pytest.approx(scipy.stats.tstd(values), abs=1e-12)


def test_one_run_has_no_deviation(tmp_path, capsys):
    record(tmp_path / "a", 0.7)
    end = rows(capsys, tmp_path)[-1]
    assert end["test_accuracy_mean"] == 0.7
    assert end["test_accuracy_sd"] is None
    assert end["test_accuracy_t95_low"] is None
    main([str(tmp_path), "--cycles", "--format", "markdown"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "| all runs | end | 1 | 70.00 | \N{EN DASH} | 30.00 | \N{EN DASH} |"
    )


def test_a_level_that_only_some_runs_reached_counts_those(tmp_path, capsys):
    record(tmp_path / "a", 0.7, seed=1)
    path = record(tmp_path / "b", 0.8, seed=2) / "metrics.csv"
    never = [line.replace(",1,1", ",0,1") for line in path.read_text().splitlines()]
    path.write_text("\n".join(never) + "\n")
    assert [row["n"] for row in rows(capsys, tmp_path)] == [2, 1, 2]


# Paired differences


@pytest.fixture
def controls(tmp_path):
    sweep(tmp_path / "magnitude")
    for seed, accuracy in ((1, 0.71), (2, 0.75), (3, 0.73), (4, 0.1)):
        record(tmp_path / "random" / str(seed), accuracy, seed, pruner__importance="random")
    none = {"pruner__importance": "none", "pruner__downscale_factor": 1.0}
    record(tmp_path / "none", 0.9, 3, **none)
    return tmp_path


def test_differences_are_paired_by_seed(controls, capsys):
    none, random = rows(capsys, controls, "--paired", "pruner.importance=magnitude")
    assert random["group"] == "pruner.importance=random"
    assert random["pairs"] == 3  # seed 4 has no partner
    # +0.01, +0.03 and -0.01
    assert random["difference_mean"] == pytest.approx(0.01)
    assert random["difference_sd"] == pytest.approx(0.02)
    half = 4.30265273 * 0.02 / 3**0.5
    assert random["difference_t95_low"] == pytest.approx(0.01 - half)
    assert random["difference_t95_high"] == pytest.approx(0.01 + half)
    assert none["pairs"] == 1
    assert none["difference_mean"] == pytest.approx(0.16)
    assert none["difference_sd"] is None


def test_groups_without_a_common_seed_have_no_difference(tmp_path, capsys):
    record(tmp_path / "a", 0.7, seed=1)
    record(tmp_path / "b", 0.8, seed=2, pruner__ratio=0.3)
    (row,) = rows(capsys, tmp_path, "--paired", "pruner.ratio=0.3")
    assert row["pairs"] == 0
    assert row["difference_mean"] is None


def test_reference_is_chosen_by_number_or_by_what_goes_along(controls):
    chosen = groups.select(grouped(controls).groups, "pruner.downscale_factor=1.0")
    assert chosen.name == "pruner.importance=none"


@pytest.mark.parametrize("wanted", ["pruner.importance=l1", "pruner.downscale_factor=0.98", "x"])
def test_reference_that_is_not_one_group_is_answered_with_the_groups(controls, capsys, wanted):
    assert main([str(controls), "--paired", wanted]) == 1
    out, error = capsys.readouterr()
    assert not out
    assert len(error.splitlines()) == 1
    for name in ("magnitude", "none", "random"):
        assert f"pruner.importance={name}" in error


def test_a_seed_twice_is_noted_and_cannot_be_paired(tmp_path, capsys):
    record(tmp_path / "a", 0.7, seed=5)
    record(tmp_path / "b", 0.8, seed=5)
    record(tmp_path / "c", 0.8, seed=5, pruner__ratio=0.3)
    assert main([str(tmp_path)]) == 0
    assert "pruner.ratio=0.15 has several runs of seed 5" in capsys.readouterr().err
    assert main([str(tmp_path), "--paired", "pruner.ratio=0.3"]) == 1
    assert "pairs need one" in capsys.readouterr().err
