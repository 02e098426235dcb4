"""The script that makes results/structured, on small runs."""

import csv

import pytest
from runs import script_here

pytest.importorskip("torch_pruning")
TINY = (
    "dataset=digits", "dataset.subset_size=60", "dataset.image_size=8", "dataset.augment=none",
    "trainer.batch_size=30", "pruner.steps=5", "home=out", "seeds=2", "workers=1",
)  # fmt: skip


@pytest.mark.long
def test_the_table_follows_from_the_runs(tmp_path):
    asked = ("targets=2", "arms=magnitude;group_norm", *TINY)
    done = script_here("run_structured.py", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "runs.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    assert [run["setup"] for run in runs] == ["dense"] * 2 + ["magnitude-2x"] * 2 + [
        "group_norm-2x"
    ] * 2
    assert {run["cut"] for run in runs[:2]} == {""}
    assert all(int(run["macs"]) <= 530_512 / 2 for run in runs[2:])
    lines = (tmp_path / "out" / "table.md").read_text(encoding="utf-8").splitlines()
    mean = sum(float(run["final"]) for run in runs[2:4]) / 2
    assert f"| {100 * mean:.2f} ±" in next(line for line in lines if "magnitude" in line)
    assert (tmp_path / "out" / "structured.png").read_bytes()[:4] == b"\x89PNG"
    unknown = script_here("run_structured.py", "arms=nothing", *TINY, cwd=tmp_path)
    assert unknown.returncode == 1
    assert "there is no 'nothing'" in unknown.stderr


@pytest.mark.long
def test_the_benchmark_prints_ratios(tmp_path):
    done = script_here(
        "benchmark_structured.py", "rounds=1", "model=resnet20", "steps=10", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("torch-pruning / ours") == 2
