"""The scripts that make the committed results, on small runs."""

import csv
import os

import pytest
from runs import script, script_here

SMALL = (
    "dataset=digits", "dataset.subset_size=40", "model=logistic", "dataset.augment=none",
    "trainer.batch_size=20", "dataset.image_size=8",
)  # fmt: skip


def test_the_papers_table(tmp_path):
    asked = ("home=out", "seeds=2", "controls=dense,one_shot", *SMALL)
    done = script("reproduce_paper_table.py", *asked, cwd=tmp_path)
    # logistic regression on 40 digits has other counts and accuracies than the paper's
    assert done.returncode == 1
    assert "NOT REPRODUCED: cycle 3" in done.stderr
    assert "Traceback" not in done.stderr
    with (tmp_path / "out" / "levels.csv").open() as file:
        levels = list(csv.DictReader(file))
    assert len(levels) == 2 * (4 + 4 + 2)
    assert (tmp_path / "out" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "| one_shot | 2 |" in (tmp_path / "out" / "controls.md").read_text()
    assert (tmp_path / "out" / "seed-42" / "refinement.png").is_file()
    again = script_here("reproduce_paper_table.py", *asked, cwd=tmp_path)
    assert "NOT REPRODUCED: cycle 3" in again.stderr
    assert "6 of 6  " in done.stdout
    assert "of 6" not in again.stdout  # what has finished is not run again
    other = script_here("reproduce_paper_table.py", *asked, "pruner.ratio=0.3", cwd=tmp_path)
    assert other.returncode == 1
    assert "other settings" in other.stderr


@pytest.mark.long
@pytest.mark.parametrize("targets", ["0.5,0.9"])
def test_the_frontier(tmp_path, targets):
    asked = ("home=out", "seeds=2", f"targets={targets}", "workers=1", *SMALL)
    done = script_here("run_frontier.py", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    reached = [float(line.split("|")[1].strip(" %")) for line in table[2:]]
    assert reached == pytest.approx([50, 90], abs=0.6)  # a cut of 1,930 weights is not finer
    assert "76.5%" in table[3]
    assert (tmp_path / "out" / "pareto.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.long
def test_the_ablation(tmp_path):
    asked = ("home=out", "seeds=2", "target=0.5", "only=one cut half-way,with random replay")
    asked += ("workers=1", *SMALL, "dataset.validation_size=10")
    done = script_here("run_ablation.py", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, _, whole, *changed = (tmp_path / "out" / "ablation.md").read_text().splitlines()[:5]
    assert whole.startswith("| frontier |  |")
    assert "`schedule.start=10 schedule.stop=10`" in changed[0]
    with (tmp_path / "out" / "ablation.csv").open() as file:
        accuracies = {
            (r["setup"], r["seed"]): r["validation_accuracy"] for r in csv.DictReader(file)
        }
    assert len(accuracies) == 3 * 2
    less = [
        float(accuracies["with random replay", s]) - float(accuracies["frontier", s])
        for s in ("42", "43")
    ]
    assert f"| {50 * sum(less):+.2f} ±" in changed[1]
    wrong = script_here("run_ablation.py", "only=nothing", cwd=tmp_path)
    assert (wrong.returncode, "there is no 'nothing'" in wrong.stderr) == (1, True)


def test_a_mistake_in_an_override_is_one_line(tmp_path):
    done = script_here("run_frontier.py", "home=out", "dataset=nothing", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "there is no 'nothing'" in done.stderr


FAULTS = ("kill", "checkpoint", "cycle", "term", "cut_short", "full", "many")


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_runs_survive_faults(tmp_path):
    done = script("fault_test.py", "kills=6", "runs=8", "home=out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "out" / "faults.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == list(FAULTS)
    for line in table[2:]:
        _, _, times, good, *_ = line.split("|")
        assert int(times) == int(good) > 0


def test_the_benchmark_of_pruning(tmp_path):
    done = script_here("benchmark_pruning.py", "--weights", "50000", "--rounds", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("global: ", "lamp: ", "times torch.kthvalue", "global_unstructured"):
        assert words in done.stdout


SMALL_STUDY = (
    "dataset=digits", "dataset.subset_size=60", "dataset.validation_size=20", "trainer.epochs=2",
    "model=logistic", "trainer.batch_size=10", "workers=1",
)  # fmt: skip


@pytest.mark.long
def test_the_importances(tmp_path):
    asked = ("importances=magnitude,movement", "allocations=global,lamp", "sparsities=0.5,0.9")
    asked += ("home=out", "again=1", "seeds=2", *SMALL_STUDY)
    done = script_here("run_importances.py", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "runs.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 2 * 2 * 2 + 2  # and the best at each sparsity once more
    for run in runs:
        assert float(run["sparsity"]) == pytest.approx(float(run["target_sparsity"]), abs=2e-3)
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + 2
    assert (tmp_path / "out" / "heatmap.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.long
def test_regrowth(tmp_path):
    asked = ("targets=0.95,0.9", "methods=gradient,saliency,reference", "seeds=2")
    done = script_here("run_regrowth.py", "home=out", *asked, *SMALL_STUDY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "runs.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 2 * (3 + 2 * 3)
    for run in runs:
        assert float(run["sparsity"]) == pytest.approx(float(run["target_sparsity"]), abs=2e-3)
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + 3 + 2 * 3
    assert (tmp_path / "out" / "regrowth.png").read_bytes()[:4] == b"\x89PNG"
