"""Which importance goes with which allocation?

    python scripts/run_importances.py [sparsities=0.9,0.95,0.98] [importances=NAME,…]
                                      [allocations=NAME,…] [again=5] [seeds=3] OVERRIDE…

Trains a dense SimpleCNN (``experiment=dense_small``), then cuts it once in each way
(``experiment=importances_small``), with one seed; the ``again`` best pairs at each sparsity, by
validation accuracy, with all ``seeds``. Any override of refine-run is passed on; ``home=DIR`` and
``workers=N`` are as in scripts/seeds.py. Writes ``runs.csv``, ``table.md`` and ``heatmap.png``.
"""

import csv
import itertools
import sys
from pathlib import Path

from matplotlib.figure import Figure
from run_ablation import validation_accuracy
from seeds import FIRST, asked, run_seeds

from refine.records.files import write_text, written_whole
from refine.report import groups
from refine.report.runs import Run

IMPORTANCES = "magnitude,random,taylor,taylor_squared,fisher,snip,movement,activation"
ALLOCATIONS = "layerwise,global,erk,lamp"
Setup = tuple[str, str, str]  # importance, allocation, sparsity


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments, home="results/importances", seeds="3", sparsities="0.9,0.95,0.98", again="5",
        importances=IMPORTANCES, allocations=ALLOCATIONS,
    )  # fmt: skip
    home, runs = Path(options["home"]), Path(options["home"]) / "runs"
    dense = {"dense": ["experiment=dense_small", *overrides]}
    run_seeds(runs, dense, options)
    setups = list(
        itertools.product(
            *(
                options[f"{kind}"].split(",")
                for kind in ("importances", "allocations", "sparsities")
            )
        )
    )
    start = f"start_from={runs}/dense/seed-${{seed}}"
    jobs = {
        "-".join(setup): [
            "experiment=importances_small", "save_model=false", start, *overrides,
            f"pruner.importance={setup[0]}", f"pruner.allocation={setup[1]}",
            f"schedule.target_sparsity={setup[2]}",
        ]
        for setup in setups
    }  # fmt: skip
    once, _ = run_seeds(runs, jobs, options | {"seeds": "1"})
    found = {setup: once["-".join(setup)] for setup in setups}
    for sparsity in options["sparsities"].split(","):
        own = [setup for setup in setups if setup[2] == sparsity]
        own.sort(key=lambda setup: -validation_accuracy(found[setup][0]))
        best = {"-".join(setup): jobs["-".join(setup)] for setup in own[: int(options["again"])]}
        more, _ = run_seeds(runs, best, options)
        found |= {setup: more["-".join(setup)] for setup in own[: int(options["again"])]}
    write_runs(home / "runs.csv", found)
    write_text(home / "table.md", table(found))
    with written_whole(home / "heatmap.png") as part:
        heat_map(found).savefig(part, format="png", dpi=200)
    print(f"\n{table(found)}\n{home / 'heatmap.png'}")
    return 0


def table(found: dict[Setup, list[Run]]) -> str:
    """Test accuracy of the pairs that were run with several seeds, the best in validation first."""
    lines = [
        "| sparsity (%) | importance | allocation | n | validation (%) | test (%), mean ± sd |",
        "|---|---|---|---|---|---|",
    ]
    several = [setup for setup, runs in found.items() if len(runs) > 1]
    for setup in sorted(several, key=lambda setup: (setup[2], -_mean(found[setup]))):
        runs = found[setup]
        test = groups.spread([run.end.test_accuracy for run in runs])
        sparsity = groups.spread([run.end.sparsity for run in runs]).mean
        spread = f"{100 * test.mean:.2f} ± {100 * (test.deviation or 0):.2f}"
        lines.append(
            f"| {100 * sparsity:.2f} | {setup[0]} | {setup[1]} | {len(runs)} "
            f"| {100 * _mean(runs):.2f} | {spread} |"
        )
    return "\n".join(lines) + "\n"


def _mean(runs: list[Run]) -> float:
    return groups.spread([validation_accuracy(run) for run in runs]).mean


def write_runs(path: Path, found: dict[Setup, list[Run]]) -> None:
    """A line for every run."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["importance", "allocation", "target_sparsity", "seed", "sparsity",
             "validation_accuracy", "test_accuracy"]
        )  # fmt: skip
        for setup, runs in found.items():
            for run in runs:
                end = run.end
                writer.writerow(
                    [*setup, run.seed, end.sparsity, validation_accuracy(run), end.test_accuracy]
                )


def heat_map(found: dict[Setup, list[Run]]) -> Figure:
    """Test accuracy of seed 42, a panel a sparsity."""
    importances, allocations, sparsities = (
        list(dict.fromkeys(part)) for part in zip(*found, strict=True)
    )
    figure = Figure(
        figsize=(1.2 + 2.6 * len(sparsities), 1.4 + 0.42 * len(importances)), layout="constrained"
    )
    panels = figure.subplots(1, len(sparsities), squeeze=False, sharey=True)[0]
    for axes, sparsity in zip(panels, sparsities, strict=True):
        values = [
            [_first(found[importance, allocation, sparsity]) for allocation in allocations]
            for importance in importances
        ]
        top = max(max(row) for row in values)
        axes.imshow(values, cmap="viridis", aspect="auto", vmin=min(min(row) for row in values))
        for row, column in itertools.product(range(len(importances)), range(len(allocations))):
            value = values[row][column]
            axes.text(
                column, row, f"{value:.1f}", ha="center", va="center", fontsize=7.5,
                color="black" if value > top - 8 else "white",
            )  # fmt: skip
        axes.set_xticks(range(len(allocations)), allocations, fontsize=8)
        axes.set_yticks(range(len(importances)), importances, fontsize=8)
        axes.set_title(f"{float(sparsity):.0%} sparsity", fontsize=9)
    figure.suptitle(f"Test accuracy (%), seed {FIRST}", fontsize=9)
    return figure


def _first(runs: list[Run]) -> float:
    return next(100 * run.end.test_accuracy for run in runs if run.seed == FIRST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
