"""Does a randomly pruned network with a large learning rate beat an l1-pruned one with plain
fine-tuning?

    python scripts/run_retraining.py [ratios=0.3,0.5,0.7] [curves=NAME,…] OVERRIDE…

Trains a dense SimpleCNN for 20 epochs, cuts the same share of every layer's filters, those of
lowest l1 norm or random ones, and trains for 12 more (``experiment=retraining``): fine-tuned at the
schedule's last rate, or along one cycle up to its highest (CLR). Controls, for the same 12 epochs:
the dense network with either rate, and the network cut at random with the weights that its training
began with. ``curves=lr_rewind,slr,one_cycle`` adds these at the middle ratio, with l1. Any override
of refine-run is passed on; ``home=DIR``, ``seeds=N`` and ``workers=N`` are as in
scripts/seeds.py. Writes ``runs.csv``, ``table.md`` and ``retraining.png``.
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

BASE = ["experiment=retraining", "checkpoint.every=0"]
DENSE = [
    *BASE, "recovery=none", "schedule=never", "pruner=none", "trainer.epochs=20", "save_model=true",
]  # fmt: skip
LATER = [*BASE, "save_model=false", "pruner.allocation=layerwise", "pruner.granularity=filter"]
RATES = {
    "fine-tune": ["recovery=fine_tune", "recovery.min_lr=0.0005"],
    "CLR": ["recovery=clr", "recovery.max_lr=0.05"],
}
PRUNERS = {"l1": "magnitude", "random": "random"}
CURVES = ("lr_rewind", "slr", "one_cycle")
NOTHING = "0"  # the ratio of what is not cut
FRESH = "re-initialised + CLR"
# The claim comes first.
DIFFERENCES = (
    ("random + CLR", "l1 + fine-tune"),
    ("random + CLR", "l1 + CLR"),
    ("random + fine-tune", "l1 + fine-tune"),
    ("l1 + CLR", "dense + CLR"),
    ("random + CLR", "dense + CLR"),
    ("dense + CLR", "dense + fine-tune"),
    ("dense + CLR", "dense"),
    (FRESH, "random + CLR"),
)
# Okabe and Ito's colours: fine-tuning is blue, CLR vermilion; marker and dashes tell the pruner.
STYLES = {
    "l1 + fine-tune": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "random + fine-tune": {"color": "#0072B2", "marker": "s", "linestyle": "--", "mfc": "white"},
    "l1 + CLR": {"color": "#D55E00", "marker": "o", "linestyle": "-"},
    "random + CLR": {"color": "#D55E00", "marker": "s", "linestyle": "--", "mfc": "white"},
    FRESH: {"color": "#000000", "marker": "^", "linestyle": ":"},
    "l1 + lr_rewind": {"color": "#56B4E9", "marker": "D", "linestyle": ""},
    "l1 + slr": {"color": "#009E73", "marker": "v", "linestyle": ""},
    "l1 + one_cycle": {"color": "#CC79A7", "marker": "P", "linestyle": ""},
}
BANDS = {
    "dense": {"color": "#999999", "linestyle": "-."},
    "dense + fine-tune": {"color": "#56B4E9", "linestyle": "--"},
    "dense + CLR": {"color": "#E69F00", "linestyle": "-"},
}

ByArm = dict[str, dict[str, list[Run]]]  # arm: ratio: a run a seed


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments, home="results/retraining", ratios="0.3,0.5,0.7", curves=""
    )
    home, runs = Path(options["home"]), Path(options["home"]) / "runs"
    ratios = sorted({entry for entry in options["ratios"].split(",") if entry}, key=_ratio)
    curves = [name for name in options["curves"].split(",") if name]
    for name in curves:
        if name not in CURVES:
            raise SystemExit(f"curves: there is no {name!r}; any of: {', '.join(CURVES)}")
    if not ratios:
        raise SystemExit("ratios: at least one is needed, such as 0.5")
    found, _ = run_seeds(runs, {"dense": [*DENSE, *overrides]}, options)
    by_arm: ByArm = {"dense": {NOTHING: found["dense"]}}
    jobs = {
        where: [*job, *overrides]
        for where, job in _jobs(f"start_from={runs}/dense/seed-${{seed}}", ratios, curves).items()
    }
    folders = {
        (arm, ratio): f"{arm}-{ratio}".replace(" + ", "_").replace(" ", "_") for arm, ratio in jobs
    }
    found, _ = run_seeds(runs, {folders[where]: job for where, job in jobs.items()}, options)
    for (arm, ratio), folder in folders.items():
        by_arm.setdefault(arm, {})[ratio] = found[folder]
    write_runs(home / "runs.csv", by_arm)
    write_text(home / "table.md", table(by_arm))
    with written_whole(home / "retraining.png") as part:
        plot(by_arm).savefig(part, format="png", dpi=200)
    print(f"\n{table(by_arm)}\n{home / 'retraining.png'}")
    return 0


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio < 1:
        raise SystemExit(f"ratios: must be between 0 and 1, not {text!r}")
    return ratio


def _jobs(start: str, ratios: list[str], curves: list[str]) -> dict[tuple[str, str], list[str]]:
    """The settings of everything that is trained after the dense networks, by arm and ratio."""
    jobs = {
        # The cycle cuts nothing, but the rate follows it all the same.
        (f"dense + {rate}", NOTHING): [*LATER, "pruner=none", start, *own]
        for rate, own in RATES.items()
    }
    for pruner, importance in PRUNERS.items():
        for rate, own in RATES.items():
            for ratio in ratios:
                cut = [f"pruner.importance={importance}", f"pruner.ratio={ratio}"]
                jobs[f"{pruner} + {rate}", ratio] = [*LATER, start, *cut, *own]
    for ratio in ratios:
        jobs[FRESH, ratio] = [
            *LATER, "pruner.importance=random", f"pruner.ratio={ratio}", *RATES["CLR"],
        ]  # fmt: skip
    middle = ratios[len(ratios) // 2]
    for name in curves:
        jobs[f"l1 + {name}", middle] = [
            *LATER, start, f"recovery={name}", "recovery.max_lr=0.05",
            "pruner.importance=magnitude", f"pruner.ratio={middle}",
        ]  # fmt: skip
    return jobs


def table(by_arm: ByArm) -> str:
    """Test accuracy of each arm after its last epoch, and the differences, paired by seed."""
    ratios = _ratios(by_arm)
    count = len(by_arm["dense"][NOTHING])
    heads = ["nothing cut", *(f"{100 * float(ratio):g} % of filters cut" for ratio in ratios[1:])]
    rule = "|---|" + "---|" * len(ratios)
    lines = [
        f"| test accuracy (%), mean ± sd of {count} | {' | '.join(heads)} |",
        rule,
        _line("sparsity of all parameters (%)", [_sparsity(by_arm, ratio) for ratio in ratios]),
    ]
    for arm, by_ratio in by_arm.items():
        lines.append(_line(arm, [_accuracy(by_ratio.get(ratio, [])) for ratio in ratios]))
    lines += ["", f"| points, paired by seed, mean ± 95 % t interval | {' | '.join(heads)} |", rule]
    for arm, other in DIFFERENCES:
        cells = [_difference(by_arm[arm].get(r, []), _against(by_arm[other], r)) for r in ratios]
        lines.append(_line(f"{arm} less {other}", cells))
    return "\n".join(lines) + "\n"


def _ratios(by_arm: ByArm) -> list[str]:
    """All of them, ascending: what is not cut comes first."""
    return sorted({ratio for by_ratio in by_arm.values() for ratio in by_ratio}, key=float)


def _line(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _sparsity(by_arm: ByArm, ratio: str) -> str:
    runs = [run for by_ratio in by_arm.values() for run in by_ratio.get(ratio, [])]
    least, most = (f"{100 * end(run.end.sparsity for run in runs):.2f}" for end in (min, max))
    return least if least == most else f"{least} to {most}"


def _accuracy(runs: list[Run]) -> str:
    if not runs:
        return ""
    own = groups.spread([run.end.test_accuracy for run in runs])
    return f"{100 * own.mean:.2f}{_plus_minus(own.deviation)}"


def _against(by_ratio: dict[str, list[Run]], ratio: str) -> list[Run]:
    """What a run of this ratio is compared with: the same ratio, or a network that is not cut."""
    return by_ratio.get(ratio) or by_ratio.get(NOTHING, [])


def _difference(runs: list[Run], others: list[Run]) -> str:
    if not (runs and others):
        return ""
    theirs = {run.seed: run.end.test_accuracy for run in others}
    less = groups.spread([run.end.test_accuracy - theirs[run.seed] for run in runs])
    return f"{100 * less.mean:+.2f}{_plus_minus(less.half_width)}"


def _plus_minus(share: float | None) -> str:
    return "" if share is None else f" ± {100 * share:.2f}"


def write_runs(path: Path, by_arm: ByArm) -> None:
    """A line for every run."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["setup", "ratio", "seed", "test_accuracy", "validation_accuracy", "sparsity"]
        )
        for arm, by_ratio in by_arm.items():
            for ratio, runs in by_ratio.items():
                for run in runs:
                    end = run.end
                    measured = [end.test_accuracy, validation_accuracy(run), end.sparsity]
                    writer.writerow([arm, ratio, run.seed, *measured])


def plot(by_arm: ByArm) -> Figure:
    """Test accuracy over the share of filters that is cut, mean and standard deviation; bands are
    of networks that are not cut."""
    figure = Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    for arm, style in BANDS.items():
        own = _spread(by_arm[arm][NOTHING])
        deviation = own.deviation or 0
        axes.axhspan(
            own.mean - deviation, own.mean + deviation, color=style["color"], alpha=0.2, lw=0
        )
        axes.axhline(own.mean, label=arm, linewidth=1.2, **style)
    cut = [arm for arm in STYLES if arm in by_arm]
    for number, arm in enumerate(cut):
        at = sorted(by_arm[arm], key=float)
        spreads = [_spread(by_arm[arm][ratio]) for ratio in at]
        shift = 0.9 * (number - (len(cut) - 1) / 2)  # so that the bars stand side by side
        axes.errorbar(
            [100 * float(ratio) + shift for ratio in at], [own.mean for own in spreads],
            [own.deviation or 0 for own in spreads], label=arm, markersize=5, linewidth=1.3,
            capsize=2, **STYLES[arm],
        )  # fmt: skip
    ticks = [100 * float(ratio) for ratio in _ratios(by_arm)[1:]]
    axes.set_xticks(ticks)
    axes.set_xlim(ticks[0] - 6, ticks[-1] + 6)
    axes.set_xlabel("filters cut (% of each layer)", fontsize=8)
    axes.set_ylabel("test accuracy (%)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=7.5, frameon=False, loc="outside right upper", handlelength=3.5)
    return figure


def _spread(runs: list[Run]) -> groups.Spread:
    return groups.spread([100 * run.end.test_accuracy for run in runs])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
