"""The ablation of a refinement cycle, on small runs."""

import csv
import statistics

import pytest
from runs import script_here

SMALL = (
    "dataset=digits", "dataset.subset_size=60", "dataset.validation_size=20",
    "dataset.test_size=10", "dataset.augment=none", "dataset.image_size=8", "model=logistic",
    "trainer.batch_size=10",
)  # fmt: skip


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.long
def test_every_arm_is_a_row_that_follows_from_the_runs(tmp_path):
    arms = "recovery slr,without downscale,no extra steps"
    done = script_here(
        "run_cycle_ablation.py", "home=out", "seeds=2", "workers=1", f"only={arms}", *SMALL,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "ablation.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    accuracy = {
        (run["recipe"], run["arm"], run["seed"]): 100 * float(run["validation_accuracy"])
        for run in runs
    }
    # with the reference, and the whole that a part is taken out of
    expected = {
        "paper": ["cut alone", "recovery slr", "paper's cycle", "without downscale"],
        "frontier": ["cut alone", "recovery slr", "no extra steps"],
    }
    assert list(accuracy) == [
        (recipe, arm, seed)
        for recipe, names in expected.items()
        for arm in names
        for seed in ("42", "43")
    ]
    steps = {(run["recipe"], run["arm"]): int(run["training_steps"]) for run in runs}
    for (recipe, arm), count in steps.items():
        extra = {"paper": 3 * 6, "frontier": 11 * 3}[recipe]
        assert count == 20 * 4 + (0 if arm == "no extra steps" else extra)

    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    for recipe, part in zip(expected, text.split("## ")[1:], strict=True):
        table = {
            cells(line)[0]: cells(line)[1:]
            for line in part.splitlines()
            if line.startswith("| ") and not line.startswith(("| arm", "| **"))
        }
        assert list(table) == expected[recipe]
        for arm, (_, count, sparsity, own, less, verdict) in table.items():
            theirs = [accuracy[recipe, arm, seed] for seed in ("42", "43")]
            assert own.split(" ± ")[0] == f"{statistics.fmean(theirs):.2f}"
            assert int(count) == steps[recipe, arm]
            assert float(sparsity) == pytest.approx({"paper": 38.4, "frontier": 95}[recipe], abs=1)
            if arm == "cut alone":
                assert less == verdict == ""
                continue
            other = "paper's cycle" if arm == "without downscale" else "cut alone"
            pairs = [accuracy[recipe, arm, s] - accuracy[recipe, other, s] for s in ("42", "43")]
            mean = statistics.fmean(pairs)
            half = 12.7062 * statistics.stdev(pairs) / 2**0.5  # t of one degree of freedom
            assert [float(number) for number in less.split(" ± ")] == pytest.approx(
                [mean, half], abs=0.006
            )
            helps = (mean > 0) == (arm in ("recovery slr", "paper's cycle"))
            clear = "helps" if helps else "hurts"
            wanted = clear if abs(mean) > half else "no difference shown"
            assert verdict.rstrip("*") == wanted
    assert (tmp_path / "out" / "ablation.png").read_bytes()[:4] == b"\x89PNG"


def test_an_arm_that_there_is_not_is_one_line(tmp_path):
    done = script_here("run_cycle_ablation.py", "only=nothing", cwd=tmp_path)
    assert (done.returncode, "there is no 'nothing'" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
