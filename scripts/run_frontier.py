"""How much accuracy does the paper's budget buy at each sparsity?

    python scripts/run_frontier.py [seeds=5] [targets=0.385,0.9,0.95,0.98] OVERRIDE…

Runs ``experiment=frontier`` at every target sparsity for five seeds from 42 on. Any override of
refine-run is passed on, such as ``dataset=image_folder dataset.root=DIR``; ``home=DIR`` and
``workers=N`` are as in scripts/seeds.py. Writes ``table.md``, ``levels.csv`` and ``pareto.png``,
with the paper's points in it.
"""

import sys
from pathlib import Path

from reproduce_paper_table import PUBLISHED, write_levels
from seeds import asked, run_seeds

from refine.records.files import write_text
from refine.report import groups, plots
from refine.report.runs import Run
from refine.report.style import save

WANTED = {0.385: 0.78, 0.9: 0.765, 0.95: 0.75, 0.98: 0.72}  # mean test accuracy aimed at
PARAMETERS = 582_346


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments, home="results/frontier", targets=",".join(map(str, WANTED))
    )
    home = Path(options["home"])
    base = ["experiment=frontier", "save_model=false", *overrides]
    setups = {
        target: [*base, f"schedule.target_sparsity={target}"]
        for target in options["targets"].split(",")
    }
    by_target, _ = run_seeds(home / "runs", setups, options)
    text = table({float(target): runs for target, runs in by_target.items()})
    print(f"\n{text}")
    write_text(home / "table.md", text)
    write_levels(home / "levels.csv", by_target)
    names = {target: f"to {float(target):.1%} sparsity" for target in by_target}
    grouping = groups.Grouping(
        [groups.Group(names[target], {}, runs) for target, runs in by_target.items()], {}
    )
    figure = plots.pareto(grouping)
    axes = figure.axes[0]
    for cycles, (_, active, accuracy) in PUBLISHED.items():
        point = (100 * (1 - active / PARAMETERS), 100 * accuracy)
        axes.plot(*point, marker="*", color="black", markersize=6, linestyle="none")
        if cycles == max(PUBLISHED):
            axes.annotate("the paper", point, (5, -9), textcoords="offset points", fontsize=7)
    save(figure, home / "pareto.png")
    return 0


def table(by_target: dict[float, list[Run]]) -> str:
    """Final sparsity and test accuracy at every target, in markdown."""
    lines = [
        "| sparsity of all parameters | seeds | test accuracy (%), mean ± 95 % t interval | sd "
        "| min | max | aim | above it (points) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for target, runs in by_target.items():
        values = [run.end.test_accuracy for run in runs]
        spread = groups.spread(values)
        sparsity = groups.spread([run.end.sparsity for run in runs]).mean
        around, deviation = "", ""
        if spread.half_width is not None:
            around = f" ± {100 * spread.half_width:.2f}"
            deviation = f"{100 * spread.deviation:.2f}"
        aim = WANTED.get(target)
        against = ("", "") if aim is None else (f"{aim:.1%}", f"{100 * (spread.mean - aim):+.2f}")
        lines.append(
            f"| {sparsity:.2%} | {len(runs)} | {100 * spread.mean:.2f}{around} | {deviation} "
            f"| {100 * min(values):.2f} | {100 * max(values):.2f} | {against[0]} | {against[1]} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
