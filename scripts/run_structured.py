"""What does each criterion for channels cost in accuracy, and how much faster is the result?

    python scripts/run_structured.py [targets=2,4] ['arms=NAME;…'] [bench=yes] OVERRIDE…

Every arm is ``experiment=sparse_training_small`` (pretraining, sparse training, cut, fine-tuning in
one run) at every target: how many times fewer multiply-accumulates are left. ``dense`` trains as
long with the same rates and without cuts. Writes ``runs.csv``, ``table.md`` and
``structured.png``. How strong the sparse training is was chosen by ``choose=yes``: 1, 10 or 100
times the published strength, by accuracy on 2,000 held-out training images (``strengths.md``).

``bench=yes`` then trains five networks more, one seed each: ResNet-20 dense and at 2x fewer MACs,
also with widths in multiples of 8, and SimpleCNN with single weights cut to 90 and 98 %. It exports
them, SimpleCNN at 4x and the dense one (refine-export), and measures them (refine-bench) into
``bench/`` and ``files.md``.

Any override of refine-run is passed on; ``home=DIR``, ``seeds=N`` and ``workers=N`` are as in
scripts/seeds.py.
"""

import csv
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from matplotlib.figure import Figure
from run_ablation import validation_accuracy
from seeds import FIRST, asked, run_seeds

from refine.bench.cli import main as bench
from refine.export.cli import main as export
from refine.records.files import write_text, written_whole
from refine.records.rows import CYCLES_FILE, SUMMARY_FILE
from refine.report import groups
from refine.report.runs import Run

BASE = ["experiment=sparse_training_small", "checkpoint.every=0", "save_model=true"]
NONE = ["regularizer=none", "regularizer.strength=null"]
DENSE = [*BASE, "control=dense", *NONE]
# As published, to be multiplied: here sparse training has a hundredth of the published steps.
# Growth is an epoch's share of what 100 epochs add.
PUBLISHED = {
    "bn_scale": {"strength": 1e-5},
    "growing_reg": {"strength": 1e-4, "growth": 25e-5},
    "group_norm": {"strength": 5e-4},
}
# Chosen by choose=yes, on validation images.
TIMES = {"bn_scale": 1, "growing_reg": 10, "group_norm": 10}
TRIED = (1, 10, 100)


def sparse(arm: str, times: float) -> list[str]:
    """The settings of an arm with sparse training at a multiple of the published strength."""
    own = [f"regularizer.{name}={times * value:g}" for name, value in PUBLISHED[arm].items()]
    return [f"pruner.criterion={arm}", f"regularizer={arm}", *own]


ARMS = {
    "magnitude": ["pruner.criterion=magnitude", *NONE],
    **{arm: sparse(arm, times) for arm, times in TIMES.items()},
    "group_norm, no sparse training": ["pruner.criterion=group_norm", *NONE],
    "random": ["pruner.criterion=random", *NONE],
}  # fmt: skip
PRETRAINED, SPARSE = 8, 12  # epochs after which these stages end
SHORTER = [
    "model=resnet20", "trainer.epochs=9", "trainer.lr_scheduler.lengths=[4,2,3]",
    "trainer.lr_scheduler.milestones=[[3],[],[2]]", "trainer.optimizer.lr=0.1",
    "trainer.lr_scheduler.rates=[0.1,0.01,0.01]", "regularizer.start=4", "regularizer.stop=6",
    "schedule.start=6",
]  # fmt: skip
WEIGHTS = [
    *BASE, *NONE, "pruner=magnitude", "pruner.criterion=none", "pruner.target_speedup=null",
    "pruner.allocation=lamp", "pruner.downscale_factor=1.0", "pruner.min_layer_density=0",
    "schedule=cubic", "schedule.start=4", "schedule.stop=12",
]  # fmt: skip
MORE = {
    "resnet20-dense": [*DENSE, *SHORTER],
    "resnet20-2x": [*BASE, *SHORTER, "pruner.target_speedup=2"],
    "resnet20-2x-multiples-of-8": [
        *BASE,
        *SHORTER,
        "pruner.target_speedup=2",
        "pruner.round_to=8",
    ],
    "simple_cnn-weights-90": [*WEIGHTS, "schedule.target_sparsity=0.9"],
    "simple_cnn-weights-98": [*WEIGHTS, "schedule.target_sparsity=0.98"],
}
# Okabe and Ito's colours.
STYLES = dict(
    zip(
        ARMS,
        (
            {"color": "#000000", "marker": "o"},
            {"color": "#E69F00", "marker": "s"},
            {"color": "#009E73", "marker": "^"},
            {"color": "#0072B2", "marker": "D"},
            {"color": "#56B4E9", "marker": "D", "mfc": "white", "linestyle": "--"},
            {"color": "#999999", "marker": "v", "linestyle": ":"},
        ),
        strict=True,
    )
)


class Ended(NamedTuple):
    """A run's test accuracy at the end of each stage, and what is left of the network."""

    seed: int
    pretrained: float
    sparse: float
    cut: float | None
    final: float
    parameters: int
    macs: int | None


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments,
        home="results/structured",
        targets="2,4",
        arms=";".join(ARMS),
        seeds="3",
        bench="no",
        choose="no",
    )
    home = Path(options["home"])
    if options["choose"] != "no":
        write_text(home / "strengths.md", choose(home, overrides, options))
        return 0
    arms, targets = options["arms"].split(";"), options["targets"].split(",")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise SystemExit(f"arms: there is no {unknown[0]!r}; any of, with ; between: {list(ARMS)}")
    jobs = {"dense": [*DENSE, *overrides]}
    for target in targets:
        for arm in arms:
            own = [*BASE, *ARMS[arm], f"pruner.target_speedup={target}"]
            jobs[folder(arm, target)] = [*own, *overrides]
    found, _ = run_seeds(home / "runs", jobs, options)
    ended = {name: [read(run) for run in runs] for name, runs in found.items()}
    write_runs(home / "runs.csv", ended)
    write_text(home / "table.md", table(ended, arms, targets))
    with written_whole(home / "structured.png") as part:
        plot(ended, arms, targets).savefig(part, format="png", dpi=200)
    print(f"\n{table(ended, arms, targets)}\n{home / 'structured.png'}")
    if options["bench"] != "no":
        measure(home, overrides, options)
    return 0


def choose(home: Path, overrides: list[str], options: dict[str, str]) -> str:
    """Validation accuracy at 4x fewer MACs of strengths, as a table; one seed, no other arm's."""
    own = ["pruner.target_speedup=4", "dataset.validation_size=2000", "dataset.test_size=500"]
    jobs = {
        f"{arm}-{times}": [*BASE, *sparse(arm, times), *own, "save_model=false", *overrides]
        for arm in PUBLISHED
        for times in TRIED
    }
    found, _ = run_seeds(home / "runs" / "strengths", jobs, options | {"seeds": "1"})
    lines = [
        "| validation accuracy (%) at 4x fewer MACs, times the published strength | "
        + " | ".join(map(str, TRIED))
        + " |",
        "|---|" + "---|" * len(TRIED),
    ]
    for arm in PUBLISHED:
        runs = [found[f"{arm}-{times}"][0] for times in TRIED]
        cells = [f"{100 * validation_accuracy(run):.2f}" for run in runs]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    return text


def folder(arm: str, target: str) -> str:
    return f"{arm}-{target}x".replace(", ", "_").replace(" ", "_")


def read(run: Run) -> Ended:
    summary = json.loads((run.directory / SUMMARY_FILE).read_text(encoding="utf-8"))
    accuracies = {row.epoch: row.test_accuracy for row in run.epochs}
    cut = None
    if "macs" in summary:
        with (run.directory / CYCLES_FILE).open(encoding="utf-8") as file:
            cut = float(list(csv.DictReader(file))[-1]["test_accuracy_after_cut"])
    return Ended(
        run.seed,
        accuracies[min(PRETRAINED, max(accuracies))],
        accuracies[min(SPARSE, max(accuracies))],
        cut,
        run.end.test_accuracy,
        summary["active_parameters"],
        summary.get("macs"),
    )


def table(ended: dict[str, list[Ended]], arms: list[str], targets: list[str]) -> str:
    """Test accuracy after each stage, in %, and the difference to dense, paired by seed."""
    dense = ended["dense"]
    count = len(dense)
    lines = [
        f"| test accuracy (%), mean ± sd of {count} | parameters left | pretrained | sparse "
        "training | after the cut | fine-tuned | less dense (95 % t interval) |",
        "|---|---|---|---|---|---|---|",
        f"| dense | {fmean(run.parameters for run in dense):,.0f} | {_mean(dense, 'pretrained')} | "
        f"{_mean(dense, 'sparse')} | | {_mean(dense, 'final')} | |",
    ]
    theirs = {run.seed: run.final for run in dense}
    for target in targets:
        for arm in arms:
            runs = ended[folder(arm, target)]
            less = groups.spread([run.final - theirs[run.seed] for run in runs])
            lines.append(
                f"| {arm}, {target}x fewer MACs | {fmean(run.parameters for run in runs):,.0f} | "
                + " | ".join(_mean(runs, stage) for stage in ("pretrained", "sparse", "cut"))
                + f" | {_mean(runs, 'final')} | {_points(less.mean, less.half_width, '+')} |"
            )
    return "\n".join(lines) + "\n"


def _mean(runs: list[Ended], stage: str) -> str:
    own = groups.spread([getattr(run, stage) for run in runs])
    return _points(own.mean, own.deviation)


def _points(mean: float, spread: float | None, sign: str = "") -> str:
    return f"{100 * mean:{sign}.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def write_runs(path: Path, ended: dict[str, list[Ended]]) -> None:
    """A line for every run."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["setup", *Ended._fields])
        for name, runs in ended.items():
            writer.writerows([name, *run] for run in runs)


def plot(ended: dict[str, list[Ended]], arms: list[str], targets: list[str]) -> Figure:
    """Accuracy after the cut, and after fine-tuning, over the MACs that are left."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, stage, title in zip(
        panels, ("cut", "final"), ("just after the cut", "after fine-tuning"), strict=True
    ):
        dense = groups.spread([100 * run.final for run in ended["dense"]])
        if stage == "final":
            low, high = dense.mean - (dense.deviation or 0), dense.mean + (dense.deviation or 0)
            axes.axhspan(low, high, color="#D55E00", alpha=0.15, lw=0)
            axes.axhline(dense.mean, color="#D55E00", linewidth=1.2, label="dense")
        for number, arm in enumerate(arms):
            spreads = [
                groups.spread([100 * getattr(run, stage) for run in ended[folder(arm, target)]])
                for target in targets
            ]
            shift = 0.04 * (number - (len(arms) - 1) / 2)  # so that the bars stand side by side
            axes.errorbar(
                [float(target) + shift for target in targets], [own.mean for own in spreads],
                [own.deviation or 0 for own in spreads], markersize=4.5, linewidth=1.2, capsize=2,
                label=arm if stage == "final" else None, **STYLES[arm],
            )  # fmt: skip
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("times fewer multiply-accumulates", fontsize=8)
        axes.set_xticks([float(target) for target in targets])
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test accuracy (%)", fontsize=8)
    figure.legend(fontsize=7.5, frameon=False, loc="outside lower center", ncols=4)
    return figure


def measure(home: Path, overrides: list[str], options: dict[str, str]) -> None:
    """Exports one seed's networks and measures them."""
    runs = home / "runs"
    one = options | {"seeds": "1"}
    run_seeds(runs, {name: [*own, *overrides] for name, own in MORE.items()}, one)
    seed = f"seed-{FIRST}"
    places = {name: runs / name / seed for name in (*MORE, "dense", "group_norm-4x")}
    lines = ["| network | file | bytes | of dense | accuracy | fp32 |", "|---|---|---|---|---|---|"]
    for name, place in places.items():
        formats = "safetensors,sparse,int8" if "weights" in name else "safetensors,int8"
        if export([str(place), "--fold", "--force", "--format", formats]):
            raise SystemExit(1)
        facts = json.loads((place / "export" / "export.json").read_text(encoding="utf-8"))
        for file in facts["files"]:
            own = "" if file["accuracy"] is None else f"{file['accuracy']:.2%}"
            lines.append(
                f"| {name} | {file['file']} | {file['bytes']:,} | {file['share']:.1%} | {own} | "
                f"{facts['accuracy']:.2%} |"
            )
    write_text(home / "files.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    for name, dense in (
        ("resnet20-2x", "resnet20-dense"),
        ("resnet20-2x-multiples-of-8", "resnet20-dense"),
        ("group_norm-4x", "dense"),
        ("simple_cnn-weights-90", "dense"),
    ):
        to = home / "bench" / name
        arguments = [str(places[name]), "--dense", str(places[dense]), "--to", str(to), "--force"]
        if bench(arguments):
            raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
