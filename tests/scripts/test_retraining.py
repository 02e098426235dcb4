"""The study of retraining: does its table say what its runs say?"""

import csv
import statistics
import sys

import pytest
from conftest import ROOT

from refine import experiment

TINY = (
    "seeds=2", "ratios=0.5", "workers=1", "dataset=digits", "dataset.subset_size=60",
    "dataset.validation_size=20", "dataset.image_size=8", "trainer.epochs=1",
    "trainer.batch_size=10",
)  # fmt: skip
ARMS = ("l1 + fine-tune", "l1 + CLR", "random + fine-tune", "random + CLR", "re-initialised + CLR")
QUANTILE = 12.706204736  # of Student's t with one degree of freedom, 97.5 %

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def study():
    """The script as a module, and no figure for each run: drawing takes longer than training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        patch.setattr(experiment, "draw_run", lambda *_, **__: None)
        import run_retraining

        yield run_retraining
    for name in ("run_retraining", "run_ablation", "reproduce_paper_table", "seeds"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def home(study, tmp_path_factory):
    place = tmp_path_factory.mktemp("retraining")
    assert study.main([f"home={place}", "curves=slr", *TINY]) == 0
    return place


@pytest.fixture(scope="module")
def runs(home):
    with (home / "runs.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cells(home):
    lines = (home / "table.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line]
    return {name: values for name, *values in rows}


def accuracies(runs, setup, column="test_accuracy"):
    found = {run["seed"]: float(run[column]) for run in runs if run["setup"] == setup}
    assert found.keys() == {"42", "43"}
    return [found[seed] for seed in sorted(found)]


def test_every_setup_runs_for_every_seed(home, runs):
    setups = ["dense", "dense + fine-tune", "dense + CLR", *ARMS, "l1 + slr"]
    assert [(run["setup"], run["seed"]) for run in runs] == [
        (setup, seed) for setup in setups for seed in ("42", "43")
    ]
    assert (home / "retraining.png").read_bytes()[:4] == b"\x89PNG"
    models = {path.parent.parent.name for path in home.glob("runs/*/*/model.safetensors")}
    assert models == {"dense"}
    assert not list(home.glob("runs/*/*/checkpoint.pt"))


def test_arms_of_a_ratio_are_equally_sparse(runs, cells):
    cut = {run["sparsity"] for run in runs if run["ratio"] == "0.5"}
    assert len(cut) == 1
    assert float(*cut) == pytest.approx(0.5, abs=0.02)
    assert {float(run["sparsity"]) for run in runs if run["ratio"] == "0"} == {0.0}
    reached = f"{100 * float(*cut):.2f}"
    assert cells["sparsity of all parameters (%)"] == ["0.00", reached]


def test_accuracies_in_the_table(runs, cells):
    for column, setups in enumerate((("dense", "dense + fine-tune", "dense + CLR"), ARMS)):
        for setup in setups:
            own = accuracies(runs, setup)
            mean, deviation = 100 * statistics.fmean(own), 100 * statistics.stdev(own)
            assert cells[setup][column] == f"{mean:.2f} ± {deviation:.2f}"
            assert cells[setup][1 - column] == ""


@pytest.mark.parametrize(
    ("setup", "other", "column"),
    [
        ("random + CLR", "l1 + fine-tune", 1),
        ("random + CLR", "l1 + CLR", 1),
        ("random + fine-tune", "l1 + fine-tune", 1),
        ("l1 + CLR", "dense + CLR", 1),
        ("random + CLR", "dense + CLR", 1),
        ("dense + CLR", "dense + fine-tune", 0),
        ("dense + CLR", "dense", 0),
        ("re-initialised + CLR", "random + CLR", 1),
    ],
)
def test_differences_are_paired_by_seed(runs, cells, setup, other, column):
    first, second = (
        100 * (own - its)
        for own, its in zip(accuracies(runs, setup), accuracies(runs, other), strict=True)
    )
    mean, half_width = cells[f"{setup} less {other}"][column].split(" ± ")
    assert mean[0] in "+-"
    assert float(mean) == pytest.approx((first + second) / 2, abs=0.006)
    # of two numbers the standard error is half their distance
    assert float(half_width) == pytest.approx(QUANTILE * abs(first - second) / 2, abs=0.006)
    assert cells[f"{setup} less {other}"][1 - column] == ""


def test_rates_follow_the_recovery_also_where_nothing_is_cut(home):
    def last(setup):
        with (home / "runs" / setup / "seed-42" / "metrics.csv").open(encoding="utf-8") as file:
            return float(list(csv.DictReader(file))[-1]["learning_rate"])

    assert last("dense") == 0.05
    assert {last("dense_fine-tune-0"), last("random_fine-tune-0.5")} == {0.0005}
    assert last("dense_CLR-0") == last("l1_CLR-0.5") == pytest.approx(0.05 / 100 / 100)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("ratios=1.5", "ratios: must be between 0 and 1, not '1.5'"),
        ("ratios=", "ratios: at least one"),
        ("curves=nothing", "curves: there is no 'nothing'"),
    ],
)
def test_a_mistake_is_one_line(study, option, problem):
    with pytest.raises(SystemExit, match=problem):
        study.main([option])
