"""Small recorded runs, and what a report says of them."""

import json
import statistics
from pathlib import Path

import pandas as pd
import yaml

from refine.report import groups, runs
from refine.report.cli import main

CONFIG = {
    "defaults": ["schema", "_self_"],
    "hydra": {"job": {"name": "refine-run"}},
    "seed": 1,
    "device": "auto",
    "output_dir": None,
    "save_model": True,
    "model": {"_target_": "refine.models.simple_cnn"},
    "dataset": {"_target_": "refine.datasets.digits", "root": "data"},
    "pruner": {"importance": "magnitude", "ratio": 0.15, "downscale_factor": 0.98},
    "schedule": {"_target_": "refine.schedule.Periodic", "interval": 2},
    "trainer": {"epochs": 4, "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001}},
}
HEADER = (
    "epoch,train_loss,train_accuracy,test_loss,test_accuracy,sparsity,prunable_sparsity,"
    "active_parameters,total_parameters,learning_rate,cycles,epoch_seconds"
)
CYCLES, SPARSITIES = (0, 0, 1, 1), (0.0, 0.0, 0.15, 0.15)
BELOW_THE_END = (0.4, 0.3, 0.2, 0.1)  # each epoch's test accuracy, below that of the summary


def record(directory: Path, accuracy: float, seed: int = 1, **settings) -> Path:
    """A finished run of four epochs and a cycle after the second, with a cycle after the last
    that brings it to ``accuracy`` and a sparsity of 0.3. ``pruner__ratio`` is pruner.ratio."""
    config = json.loads(json.dumps(CONFIG | {"seed": seed}))
    for name, value in settings.items():
        *path, key = name.split("__")
        node = config
        for part in path:
            node = node[part]
        node[key] = value
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    rows = [HEADER]
    for epoch, (cycles, sparsity, below) in enumerate(
        zip(CYCLES, SPARSITIES, BELOW_THE_END, strict=True), start=1
    ):
        rows.append(
            f"{epoch},0.5,0.9,0.6,{accuracy - below},{sparsity},{sparsity},85,100,0.001,{cycles},1"
        )
    (directory / "metrics.csv").write_text("\n".join(rows) + "\n")
    summary = {"status": "finished", "reason": None, "epochs": 4, "cycles": 2}
    summary |= {"test_accuracy": accuracy, "sparsity": 0.3}
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def sweep(directory: Path, **settings) -> None:
    """Three seeds with a mean of 0.72 and a standard deviation of 0.02."""
    for seed, accuracy in ((1, 0.70), (2, 0.72), (3, 0.74)):
        record(directory / str(seed), accuracy, seed, **settings)


def stream(directory: Path, tasks: int, forgotten: float = 0.25) -> Path:
    """A run of two epochs a task, in which the tasks before the latest lose ``forgotten``."""
    run = record(directory, 0.7)
    rows = []
    for epoch in range(1, 2 * tasks + 1):
        seen = (epoch + 1) // 2
        accuracies = [0.9 - forgotten] * (seen - 1) + [0.9]
        rows.append(
            {"epoch": epoch, "train_loss": 0.5, "train_accuracy": 0.9, "test_accuracy": 0.8}
            | {"sparsity": 0.0, "prunable_sparsity": 0.0, "cycles": 0, "task": seen}
            | {"average_accuracy": statistics.fmean(accuracies)}
            | {"forgetting": forgotten if seen > 1 else 0.0}
            | {"task_accuracies": json.dumps(accuracies)}
        )
    pd.DataFrame(rows).to_csv(run / "metrics.csv", index=False)
    return run


def grouped(directory: Path) -> groups.Grouping:
    found, foreign = runs.find([directory])
    finished, left_out = runs.read(found)
    assert not foreign
    assert not left_out
    return groups.group(finished)


def names(directory: Path) -> list[str]:
    return [group.name for group in grouped(directory).groups]


def rows(capsys, *arguments) -> list[dict]:
    """The rows that the command writes as JSON: every level of cycles, and the end."""
    kind = [] if "--paired" in arguments else ["--cycles"]
    assert main([*map(str, arguments), *kind, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)["rows"]
