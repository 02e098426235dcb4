"""What does each part of the frontier's recipe contribute?

    python scripts/run_ablation.py [seeds=3] [target=0.95] [only=NAME,…] OVERRIDE…

Runs ``experiment=frontier`` on 8,000 of its 10,000 images, and again with one part at a time taken
out or replaced, and compares them on the other 2,000: test images are not used for choices. Any
override of refine-run is passed on; ``home=DIR`` and ``workers=N`` are as in scripts/seeds.py.
Writes ``ablation.md`` and ``ablation.csv``.
"""

import csv
import sys
from pathlib import Path

from reproduce_paper_table import rows
from seeds import asked, run_seeds

from refine.records.files import write_text, written_whole
from refine.report import groups
from refine.report.runs import Run

WHOLE = "frontier"
# Replay of 17 steps of 64 after each of the 11 cuts is 1.2 epochs' worth, as the budget allows.
REPLAY = ("replay.batch_size=64", "replay.steps=17")
CHANGES = {
    "SGD instead of Muon": ["trainer=sgd_one_cycle"],
    "Adam instead of Muon": ["trainer=adam_one_cycle", "trainer.batch_size=64"],
    "no label smoothing": ["trainer.label_smoothing=0"],
    "zeros instead of mirrored edges": ["dataset.augment=crop_flip"],
    "no augmentation": ["dataset.augment=none"],
    "layerwise instead of global": ["pruner.allocation=layerwise"],
    "random instead of magnitude": ["pruner.importance=random", "pruner.allocation=layerwise"],
    "one cut half-way": ["schedule.start=10", "schedule.stop=10"],
    "cuts until epoch 18": ["schedule.stop=18"],
    "survivors scaled by 0.98 a cycle": ["pruner.downscale_factor=0.98"],
    "with replay of high loss": ["replay=high_loss", *REPLAY],
    "with random replay": ["replay=uniform", *REPLAY],
}


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments, home="results/frontier", seeds="3", target="0.95", only=",".join(CHANGES)
    )
    home = Path(options["home"])
    base = [
        "experiment=frontier", "save_model=false", "dataset.validation_size=2000",
        f"schedule.target_sparsity={options['target']}",
    ]  # fmt: skip
    setups = {WHOLE: [*base, *overrides]}
    for name in options["only"].split(","):
        if name not in CHANGES:
            raise SystemExit(f"only: there is no {name!r}; one of: {', '.join(CHANGES)}")
        setups[name] = [*base, *CHANGES[name], *overrides]
    folders = {name: name.replace(" ", "-") for name in setups}
    made, _ = run_seeds(
        home / "runs" / "ablation", {folders[name]: own for name, own in setups.items()}, options
    )
    by_name = {name: made[folder] for name, folder in folders.items()}
    text = table(by_name, setups)
    print(f"\n{text}")
    write_text(home / "ablation.md", text)
    write_runs(home / "ablation.csv", by_name)
    return 0


def validation_accuracy(run: Run) -> float:
    """Of the last epoch, from ``metrics.csv``."""
    return float(rows(run)[-1]["validation_accuracy"])


def table(by_name: dict[str, list[Run]], setups: dict[str, list[str]]) -> str:
    """Validation accuracy of each set-up, and how far it is from the whole recipe's, paired by
    seed."""
    lines = [
        "| set-up | changed settings | validation accuracy (%), mean ± sd | sparsity (%) "
        "| less the whole recipe, points, mean ± 95 % t interval |",
        "|---|---|---|---|---|",
    ]
    whole = {run.seed: validation_accuracy(run) for run in by_name[WHOLE]}
    for name, runs in by_name.items():
        own = groups.spread([validation_accuracy(run) for run in runs])
        less = groups.spread([validation_accuracy(run) - whole[run.seed] for run in runs])
        sparsity = groups.spread([run.end.sparsity for run in runs]).mean
        changed = " ".join(entry for entry in setups[name] if entry not in setups[WHOLE])
        difference = (
            "" if name == WHOLE else f"{100 * less.mean:+.2f}{_plus_minus(less.half_width)}"
        )
        lines.append(
            f"| {name} | {changed and f'`{changed}`'} | {100 * own.mean:.2f}"
            f"{_plus_minus(own.deviation)} | {100 * sparsity:.1f} | {difference} |"
        )
    count = len(whole)
    lines += [
        "",
        f"{count} seeds from {min(whole)} on; 8,000 training and 2,000 validation images.",
    ]
    return "\n".join(lines) + "\n"


def _plus_minus(share: float | None) -> str:
    return "" if share is None else f" ± {100 * share:.2f}"


def write_runs(path: Path, by_name: dict[str, list[Run]]) -> None:
    """A line for every run: its set-up, seed, sparsity and validation accuracy."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["setup", "seed", "sparsity", "validation_accuracy"])
        for name, runs in by_name.items():
            for run in runs:
                writer.writerow([name, run.seed, run.end.sparsity, validation_accuracy(run)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
