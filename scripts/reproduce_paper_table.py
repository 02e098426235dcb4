"""Is the paper's table reproduced, how much varies with the seed, and what do the cuts cost?

    python scripts/reproduce_paper_table.py [seeds=5] [controls=dense,one_shot] OVERRIDE…

Runs ``experiment=paper`` for five seeds from 42 on, and where asked its controls, dense (the same
training without a cut) and one_shot (all of it cut at once). Any override of refine-run is passed
on: ``dataset=image_folder dataset.root=DIR`` where CIFAR-10 cannot be downloaded. ``home=DIR`` and
``workers=N`` are as in scripts/seeds.py. Writes into home ``table.md``, ``levels.csv``,
``cycles.csv``, ``curves.png`` and, with controls, ``controls.md``. The exit code is 1 if a
parameter count is off or a published accuracy lies outside mean ± 3 standard deviations.
"""

import csv
import json
import shutil
import sys
from datetime import datetime
from pathlib import Path

from seeds import asked, run_seeds

from refine.records.files import write_text, written_whole
from refine.report import groups, plots
from refine.report.runs import Run
from refine.report.style import save

# Cycles so far: epoch, active parameters and test accuracy as published (de Beer 2026).
PUBLISHED = {
    0: (5, 582_346, 0.5924),
    1: (10, 495_085, 0.6729),
    2: (15, 420_914, 0.7035),
    3: (20, 357_868, 0.7091),
}
T4_MINUTES = 1.8  # published, for one run


def main(arguments: list[str]) -> int:
    options, overrides = asked(arguments, home="results/paper", controls="")
    home = Path(options["home"])
    base = ["experiment=paper", "save_model=false", *overrides]
    setups = {"paper": base}
    for control in filter(None, options["controls"].split(",")):
        setups[control] = [*base, f"control={control}"]
    by_name, seconds = run_seeds(home / "runs", setups, options)
    runs = by_name["paper"]
    text, wrong = compared(runs)
    if len(by_name) == 1 and seconds > 5:  # otherwise nothing was run, or more than the five
        print(f"\nthis call: {seconds / 60:.1f} minutes")
    print(f"\n{text}")
    write_text(home / "table.md", text)
    keep(runs[0].directory, home / runs[0].directory.name)
    if len(by_name) > 1:
        text = against_controls(runs, {name: own for name, own in by_name.items() if own != runs})
        print(f"\n{text}")
        write_text(home / "controls.md", text)
    write_levels(home / "levels.csv", by_name)
    write_cycles(home / "cycles.csv", by_name)
    figure = plots.curves(named_groups(by_name))
    save(figure, home / "curves.png")
    for line in wrong:
        print(f"NOT REPRODUCED: {line}", file=sys.stderr)
    return 1 if wrong else 0


def compared(runs: list[Run]) -> tuple[str, list[str]]:
    """The paper's table and ours, in markdown, and what is not reproduced."""
    wrong = []
    lines = [
        "| cycles | epoch | active parameters | published accuracy (%) | mean (%) | sd | min | max "
        "| published within min to max |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cycles, (epoch, active, accuracy) in PUBLISHED.items():
        rows = [run.levels()[cycles] for run in runs]
        counts = {active_parameters(run, cycles) for run in runs}
        if counts != {active} or {row.epoch for row in rows} != {epoch}:
            wrong.append(f"cycle {cycles}: {counts} active parameters, not {active:,}")
        values = [row.test_accuracy for row in rows]
        spread = groups.spread(values)
        inside = min(values) <= accuracy <= max(values)
        if spread.deviation is not None and abs(accuracy - spread.mean) > 3 * spread.deviation:
            wrong.append(f"cycle {cycles}: {accuracy:.2%} is outside the mean ± 3 sd of the runs")
        deviation = "" if spread.deviation is None else f"{100 * spread.deviation:.2f}"
        lines.append(
            f"| {cycles} | {epoch} | {', '.join(f'{count:,}' for count in counts)} "
            f"| {100 * accuracy:.2f} | {100 * spread.mean:.2f} | {deviation} "
            f"| {100 * min(values):.2f} | {100 * max(values):.2f} | {'yes' if inside else 'no'} |"
        )
    lines += [
        "",
        f"{len(runs)} seeds from {runs[0].seed} on, {minutes(runs):.1f} minutes of training in all "
        f"(where runs overlap, once); published: {T4_MINUTES} minutes for one run on a T4.",
    ]
    return "\n".join(lines) + "\n", wrong


def active_parameters(run: Run, cycles: int) -> int:
    """From ``metrics.csv``: the active parameters after so many cycles."""
    return next(int(row["active_parameters"]) for row in rows(run) if int(row["cycles"]) == cycles)


def minutes(runs: list[Run]) -> float:
    """Minutes in which at least one of the runs was training."""
    total, until = 0.0, 0.0
    for begin, seconds in sorted(map(_began, runs)):
        total += max(0.0, begin + seconds - max(begin, until))
        until = max(until, begin + seconds)
    return total / 60


def _began(run: Run) -> tuple[float, float]:
    """When a run began, in seconds, and how many it took."""
    environment, summary = (
        json.loads((run.directory / name).read_text(encoding="utf-8"))
        for name in ("environment.json", "summary.json")
    )
    return datetime.fromisoformat(environment["started"]).timestamp(), summary["seconds"]


def rows(run: Run, table: str = "metrics.csv") -> list[dict[str, str]]:
    with (run.directory / table).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def against_controls(runs: list[Run], controls: dict[str, list[Run]]) -> str:
    """Final accuracy of the paper's runs less that of each control, paired by seed, in markdown."""
    lines = [
        "| paper's experiment less | pairs | points | 95 % t interval | its accuracy (%) |",
        "|---|---|---|---|---|",
    ]
    paper = groups.Group("paper", {}, runs)
    for name, others in controls.items():
        difference = groups.paired(paper, groups.Group(name, {}, others))
        low, high = (100 * (difference.mean + sign * difference.half_width) for sign in (-1, 1))
        end = groups.spread([run.end.test_accuracy for run in others])
        lines.append(
            f"| {name} | {difference.n} | {100 * difference.mean:+.2f} | [{low:+.2f}, {high:+.2f}] "
            f"| {100 * end.mean:.2f} ± {100 * end.half_width:.2f} |"
        )
    return "\n".join(lines) + "\n"


def named_groups(by_name: dict[str, list[Run]]) -> groups.Grouping:
    """The runs as the groups of a plot: paper, dense, one_shot."""
    return groups.Grouping([groups.Group(name, {}, own) for name, own in by_name.items()], {})


def write_levels(path: Path, by_name: dict[str, list[Run]]) -> None:
    """A line for every run and number of cycles: epoch, sparsity and test accuracy."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["experiment", "seed", "cycles", "epoch", "sparsity", "test_accuracy"])
        for name, runs in by_name.items():
            for run in runs:
                for cycles, row in run.levels().items():
                    values = [row.epoch, row.sparsity, row.test_accuracy]
                    writer.writerow([name, run.seed, cycles, *values])


def write_cycles(path: Path, by_name: dict[str, list[Run]]) -> None:
    """A line for every cycle of every run: test accuracy before it, after its cut and after its
    replay."""
    columns = ["cycle", "epoch", "cut_weights", "sparsity"]
    columns += [f"test_accuracy_{when}" for when in ("before", "after_cut", "after_replay")]
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["experiment", "seed", *columns])
        for name, runs in by_name.items():
            for run in runs:
                for row in rows(run, "cycles.csv"):
                    writer.writerow([name, run.seed, *(row[column] for column in columns)])


def keep(directory: Path, place: Path) -> None:
    """Copies a run's tables, configuration and figure to where they are committed."""
    place.mkdir(parents=True, exist_ok=True)
    names = ("metrics.csv", "cycles.csv", "summary.json", "config.yaml", "refinement.png")
    for name in (*names, "environment.json"):
        with written_whole(place / name) as part:
            shutil.copyfile(directory / name, part)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
