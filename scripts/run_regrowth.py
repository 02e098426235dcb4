"""Is a network that was cut too far and grew back better than one that was cut less?

    python scripts/run_regrowth.py [targets=0.98,0.97,0.96,0.95] [methods=NAME,…] OVERRIDE…

Cuts a dense SimpleCNN (``experiment=dense_small``) at once by LAMP, to 99 % and to each target, and
trains each for six epochs. Then the one at 99 % grows back to each target by each method and trains
for four more (``experiment=regrowth_small``), and so do, without growing, those that were cut to
the targets and the one at 99 % itself: the same number of epochs for all. Any override of
refine-run is passed on; ``home=DIR`` and ``workers=N`` are as in scripts/seeds.py. Writes
``runs.csv``, ``table.md`` and ``regrowth.png``.
"""

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure
from run_ablation import validation_accuracy
from seeds import asked, run_seeds

from refine.records.files import write_text, written_whole
from refine.report import groups
from refine.report.runs import Run

FAR = "0.99"
SEED = "seed-${seed}"
# {runs} is where they lie, {target} the sparsity that is grown to.
METHODS = {
    "random": ["regrowth=random", "regrowth.allocation=uniform"],
    "gradient": ["regrowth=gradient", "regrowth.allocation=global"],
    "saliency": [
        "regrowth=saliency", "regrowth.allocation=global",
        f"regrowth.source={{runs}}/dense/{SEED}",
    ],
    "reference": [
        "regrowth=reference", "regrowth.allocation=proportional", "regrowth.initial=reference",
        f"regrowth.source={{runs}}/cut-{{target}}/{SEED}",
    ],
    "controller": [
        "regrowth=gradient", "regrowth.allocation=controller", "regrowth.controller.episodes=20",
        "regrowth.controller.steps=10",
    ],
}  # fmt: skip
# Okabe and Ito's colours
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#999999")


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments, home="results/regrowth", seeds="3", targets="0.98,0.97,0.96,0.95",
        methods=",".join(METHODS),
    )  # fmt: skip
    home, runs = Path(options["home"]), Path(options["home"]) / "runs"
    targets, methods = options["targets"].split(","), options["methods"].split(",")
    run_seeds(runs, {"dense": ["experiment=dense_small", *overrides]}, options)
    cut = {
        f"cut-{sparsity}": [
            "experiment=importances_small", f"start_from={runs}/dense/{SEED}",
            "pruner.allocation=lamp", "schedule.start=0", f"schedule.target_sparsity={sparsity}",
            "trainer.epochs=6", *overrides,
        ]
        for sparsity in (FAR, *targets)
    }  # fmt: skip
    run_seeds(runs, cut, options)
    later = ["experiment=regrowth_small", "save_model=false"]
    still = ["regrowth=none", "schedule=never", *overrides]
    jobs = {
        f"cut at once-{sparsity}": [*later, f"start_from={runs}/cut-{sparsity}/{SEED}", *still]
        for sparsity in (FAR, *targets)
    }
    for target in targets:
        for method in methods:
            own = [
                entry.format(runs=runs, target=target, seed="{seed}") for entry in METHODS[method]
            ]
            jobs[f"{method}-{target}"] = [
                *later, f"start_from={runs}/cut-{FAR}/{SEED}", *own,
                f"schedule.sparsities=[{target}]", *overrides,
            ]  # fmt: skip
    found, _ = run_seeds(runs, {name.replace(" ", "_"): job for name, job in jobs.items()}, options)
    by_way: dict[str, dict[str, list[Run]]] = {}
    for name in jobs:
        way, sparsity = name.rsplit("-", 1)
        by_way.setdefault(way, {})[sparsity] = found[name.replace(" ", "_")]
    write_runs(home / "runs.csv", by_way)
    write_text(home / "table.md", table(by_way))
    with written_whole(home / "regrowth.png") as part:
        curves(by_way).savefig(part, format="png", dpi=200)
    print(f"\n{table(by_way)}\n{home / 'regrowth.png'}")
    return 0


def table(by_way: dict[str, dict[str, list[Run]]]) -> str:
    """Test accuracy of each way to a sparsity, and less the network cut to it at once and less the
    one that stayed at 99 %, paired by seed."""
    lines = [
        "| sparsity (%) | way | n | test accuracy (%), mean ± sd | less cut at once, mean ± 95 % t "
        "interval | less the 99 % network with as many epochs |",
        "|---|---|---|---|---|---|",
    ]
    once = by_way["cut at once"]
    stayed = {run.seed: run.end.test_accuracy for run in once[FAR]}
    for sparsity in once:
        straight = {run.seed: run.end.test_accuracy for run in once[sparsity]}
        for way, by_sparsity in by_way.items():
            if sparsity not in by_sparsity:
                continue
            runs = by_sparsity[sparsity]
            own = groups.spread([run.end.test_accuracy for run in runs])
            reached = groups.spread([run.end.sparsity for run in runs]).mean
            less = [_difference(runs, straight), _difference(runs, stayed)]
            if way == "cut at once":
                less[0] = ""
            if sparsity == FAR:
                less[1] = ""
            lines.append(
                f"| {100 * reached:.2f} | {way} | {len(runs)} | {100 * own.mean:.2f} ± "
                f"{100 * (own.deviation or 0):.2f} | {less[0]} | {less[1]} |"
            )
    return "\n".join(lines) + "\n"


def _difference(runs: list[Run], other: dict[int, float]) -> str:
    less = groups.spread([run.end.test_accuracy - other[run.seed] for run in runs])
    margin = f" ± {100 * less.half_width:.2f}" if less.half_width is not None else ""
    return f"{100 * less.mean:+.2f}{margin}"


def write_runs(path: Path, by_way: dict[str, dict[str, list[Run]]]) -> None:
    """A line for every run."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["way", "target_sparsity", "seed", "sparsity", "validation_accuracy", "test_accuracy"]
        )
        for way, by_sparsity in by_way.items():
            for target, runs in by_sparsity.items():
                for run in runs:
                    end = run.end
                    writer.writerow(
                        [
                            way,
                            target,
                            run.seed,
                            end.sparsity,
                            validation_accuracy(run),
                            end.test_accuracy,
                        ]
                    )


def curves(by_way: dict[str, dict[str, list[Run]]]) -> Figure:
    """Test accuracy over sparsity, mean and standard deviation."""
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (way, by_sparsity) in enumerate(by_way.items()):
        at = sorted(by_sparsity)
        spreads = [
            groups.spread([100 * run.end.test_accuracy for run in by_sparsity[s]]) for s in at
        ]
        shift = 0.03 * (number - len(by_way) / 2)  # so that the bars stand side by side
        axes.errorbar(
            [100 * float(sparsity) + shift for sparsity in at], [entry.mean for entry in spreads],
            [entry.deviation or 0 for entry in spreads], color=COLOURS[number % len(COLOURS)],
            label=way, marker="o", markersize=3, linewidth=1.2, capsize=2,
        )  # fmt: skip
    axes.set_xlabel("sparsity (% of all parameters)", fontsize=8)
    axes.set_ylabel("test accuracy (%)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="upper right")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
