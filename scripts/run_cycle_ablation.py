"""Which part of a refinement cycle helps, and is it the part or just more training?

    python scripts/run_cycle_ablation.py [seeds=5] [recipes=paper,frontier] [only=NAME,…] OVERRIDE…

The reference is the cut alone, followed by as many ordinary training steps as a replay takes.
Each part of a cycle is added to that, by itself, and each part of the paper's cycle is taken out of
the whole; every arm but one takes the same number of training steps. All of it once on a fifth of
the paper's data and replay (``experiment=ablation``) and once on as much of the frontier's, to 95 %
sparsity. Arms are compared by accuracy on 2,500 held-out training images; test images are not
used. ``recovery=fine_tune`` and ``lr_rewind`` are left out: they keep a constant rate as it is.

Any override of refine-run is passed on; ``home=DIR`` and ``workers=N`` are as in
scripts/seeds.py. Writes ``ablation.csv``, ``table.md`` and ``ablation.png``.
"""

import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from reproduce_paper_table import rows
from run_ablation import validation_accuracy
from scipy.special import stdtrit
from seeds import asked, run_seeds

from refine.records.files import write_text, written_whole
from refine.report import groups
from refine.report.runs import Run

REFERENCE, WHOLE, DENSE = "cut alone", "paper's cycle", "no cut"
FEWER = "no extra steps"  # the one arm that trains less than the others
ADDED, LEFT_OUT, TAKEN_OUT = (
    "added to the cut alone", "left out of the cut alone", "taken out of the paper's cycle"
)  # fmt: skip
NOTHING = "no difference shown"
# What is to be known of single arms.
OF_SOME = {
    "replay generative": "The autoencoder's own steps are not counted.",
    "recovery weight_rewind": "weight_rewind goes back to the weights of epoch 2; by default it "
    "would go back to those before training, as the first cut comes after as many epochs as a "
    "recovery takes.",
}
# Okabe and Ito's colours
COLOURS = {"helps": "#009E73", "hurts": "#D55E00", NOTHING: "#777777"}
HEADING = 0.4, 1.1  # rows above and below the middle of one, in the figure


@dataclass(frozen=True)
class Arm:
    """What differs from the recipe's base. ``kind`` says what it is compared with, and whether a
    part was added or taken out."""

    name: str
    changes: tuple[str, ...] = ()
    kind: str = ADDED

    @property
    def other(self) -> str:
        return WHOLE if self.kind == TAKEN_OUT else REFERENCE


@dataclass(frozen=True)
class Recipe:
    """``base`` is the cut alone; {runs} in an arm's changes is the directory of the recipe's
    runs."""

    base: tuple[str, ...]
    arms: tuple[Arm, ...]


DOWNSCALE = "pruner.downscale_factor=0.98"
NO_CUT = "pruner.importance=none"
REWOUND = {"weight_rewind": ("recovery.rewind_to=2",)}
CURVE = "recovery.original_epochs=${trainer.epochs}"  # so that nothing is other before the cut
EVERYWHERE = ("dataset.test_size=500", "save_model=false", "checkpoint.every=0")
KEPT = (NO_CUT, "save_model=true")  # as it teaches


def _replay(name: str, *numbers: str) -> tuple[str, ...]:
    return (f"replay={name}", *numbers)  # a group brings its own numbers


def _teacher(name: str) -> Arm:
    source = f"distillation.source={{runs}}/{_folder(DENSE)}/seed-${{seed}}"
    own = (f"distillation={name}", "distillation.during=cycle")
    return Arm(f"teacher {name}", (*own, source) if name == "dense" else own)


def _folder(name: str) -> str:
    return name.replace(" ", "-").replace("'", "")


def _recipe(
    base: tuple[str, ...], numbers: tuple[str, ...], replays: str, recoveries: str, whole: bool
) -> Recipe:
    teachers = [_teacher(name) for name in ("self", "ema", "dense")]
    high_loss = _replay("high_loss", *numbers)
    arms = [
        Arm("downscale", (DOWNSCALE,)),
        *(Arm(f"replay {name}", _replay(name, *numbers)) for name in replays.split()),
        *teachers,
        *(
            Arm(f"recovery {name}", (f"recovery={name}", CURVE, *REWOUND.get(name, ())))
            for name in recoveries.split()
        ),
    ]
    if whole:
        arms += [
            Arm(WHOLE, (DOWNSCALE, *high_loss)),
            Arm(DENSE, KEPT, LEFT_OUT),
            Arm("without downscale", high_loss, TAKEN_OUT),
            Arm("without replay", (DOWNSCALE,), TAKEN_OUT),
            Arm("without cut", (NO_CUT, *high_loss), TAKEN_OUT),
            Arm("without cut and replay", KEPT, TAKEN_OUT),
        ]
    else:
        arms += [
            Arm(DENSE, KEPT, LEFT_OUT),
            Arm(FEWER, ("replay=none", "replay.steps=0"), LEFT_OUT),
        ]
    return Recipe((*base, *EVERYWHERE), tuple(arms))


RECIPES = {
    "paper": _recipe(
        ("experiment=ablation",),
        ("replay.buffer_size=200", "replay.steps=6"),
        "high_loss uniform reservoir prioritized uncertainty class_balanced herding generative",
        "slr clr one_cycle weight_rewind",
        whole=True,
    ),
    "frontier": _recipe(
        (
            "experiment=frontier", "schedule.target_sparsity=0.95", "dataset.subset_size=4500",
            "dataset.validation_size=2500", "replay=training", "replay.steps=3",
            "replay.batch_size=64",
        ),
        ("replay.buffer_size=200", "replay.steps=3", "replay.batch_size=64"),
        "high_loss uniform",
        "slr",
        whole=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """Of an arm's validation accuracy from the other's, paired by seed: ``corrected`` is half the
    width of the interval that holds for all arms of the recipe at once (Bonferroni)."""

    spread: groups.Spread
    corrected: float | None
    lacks: bool  # the arm has a part less, so that the part helps where the arm is worse

    @property
    def verdict(self) -> str:
        """What the plain interval says about the part."""
        if not _beyond(self.spread.mean, self.spread.half_width):
            return NOTHING
        return "helps" if (self.spread.mean > 0) != self.lacks else "hurts"

    @property
    def survives(self) -> bool:
        return _beyond(self.spread.mean, self.corrected)


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments, home="results/ablation", recipes=",".join(RECIPES), only=""
    )
    home = Path(options["home"])
    chosen = _chosen(options["recipes"], options["only"])
    first, then, folders = {}, {}, {}
    for recipe, arms in chosen.items():
        runs, made = home / "runs" / recipe, {}
        for arm in arms:  # arms of the same changes are the same runs
            folder = f"{recipe}/{made.setdefault(arm.changes, _folder(arm.name))}"
            changes = [entry.replace("{runs}", str(runs)) for entry in arm.changes]
            folders[recipe, arm.name] = folder
            jobs = first if arm.changes == KEPT else then
            jobs[folder] = [*RECIPES[recipe].base, *changes, *overrides]
        if any(arm.name == "teacher dense" for arm in arms):
            first[f"{recipe}/{_folder(DENSE)}"] = [*RECIPES[recipe].base, *KEPT, *overrides]
    found, _ = run_seeds(home / "runs", first, options) if first else ({}, 0)
    found |= run_seeds(home / "runs", then, options)[0]
    by_recipe = {
        recipe: {arm: found[folders[recipe, arm.name]] for arm in arms}
        for recipe, arms in chosen.items()
    }
    text = "\n".join(table(recipe, by_arm) for recipe, by_arm in by_recipe.items())
    print(f"\n{text}")
    write_runs(home / "ablation.csv", by_recipe)
    write_text(home / "table.md", text)
    figure = forest({recipe: differences(by_arm) for recipe, by_arm in by_recipe.items()})
    with written_whole(home / "ablation.png") as part:
        figure.savefig(part, format="png", dpi=200)
    return 0


def _chosen(recipes: str, only: str) -> dict[str, list[Arm]]:
    """The arms of each recipe, after those that they are compared with. SystemExit for an unknown
    name."""
    wanted = [name for name in only.split(",") if name]
    known = dict.fromkeys(arm.name for recipe in RECIPES.values() for arm in recipe.arms)
    for where, names, all_names in (
        ("recipes", recipes.split(","), RECIPES), ("only", wanted, known)
    ):  # fmt: skip
        for name in names:
            if name not in all_names:
                raise SystemExit(f"{where}: there is no {name!r}; one of: {', '.join(all_names)}")
    chosen = {}
    for recipe in recipes.split(","):
        arms = [arm for arm in RECIPES[recipe].arms if not wanted or arm.name in wanted]
        others = {arm.other for arm in arms}
        chosen[recipe] = [Arm(REFERENCE)]
        chosen[recipe] += [arm for arm in RECIPES[recipe].arms if arm in arms or arm.name in others]
    return chosen


def differences(by_arm: dict[Arm, list[Run]]) -> dict[Arm, Difference]:
    """Of every arm but the reference."""
    by_name = {
        arm.name: {run.seed: validation_accuracy(run) for run in runs}
        for arm, runs in by_arm.items()
    }
    compared, found = len(by_arm) - 1, {}
    for arm in by_arm:
        if arm.name == REFERENCE:
            continue
        own, other = by_name[arm.name], by_name[arm.other]
        spread = groups.spread([own[seed] - other[seed] for seed in own])
        corrected = None
        if spread.half_width is not None:
            quantile = stdtrit(spread.n - 1, 1 - (1 - groups.CONFIDENCE) / (2 * compared))
            corrected = float(quantile) * spread.deviation / math.sqrt(spread.n)
        found[arm] = Difference(spread, corrected, lacks=arm.kind != ADDED)
    return found


def _beyond(mean: float, half_width: float | None) -> bool:
    return half_width is not None and abs(mean) > half_width


def training_steps(run: Run) -> int:
    """Of its epochs, and of its replays, from ``cycles.csv``."""
    if not (run.directory / "cycles.csv").exists():
        raise SystemExit(f"{run.directory} had no cycle, so there is nothing to compare")
    cycles = rows(run, "cycles.csv")
    in_an_epoch = int(cycles[-1]["step"]) / int(cycles[-1]["epoch"])
    return round(in_an_epoch * run.end.epoch) + sum(int(row["replay_steps"]) for row in cycles)


def table(recipe: str, by_arm: dict[Arm, list[Run]]) -> str:
    """Validation accuracy of each arm, how far it is from what it is compared with, and what that
    says about the part."""
    base = " ".join(RECIPES[recipe].base)
    lines = [
        f"## {recipe}",
        "",
        f"`{base}`",
        "",
        "| arm | changed settings | training steps | sparsity (%) | validation accuracy (%), "
        "mean ± sd | difference, points, mean ± 95 % t interval | the part |",
        "|---|---|---|---|---|---|---|",
    ]
    found, kind = differences(by_arm), None
    for arm, runs in by_arm.items():
        own = groups.spread([validation_accuracy(run) for run in runs])
        sparsity = groups.spread([run.end.sparsity for run in runs]).mean
        steps = ", ".join(f"{count:,}" for count in sorted({training_steps(run) for run in runs}))
        changed = " ".join(arm.changes).replace("{runs}", "…")
        less = verdict = ""
        if arm in found:
            difference = found[arm]
            less = f"{100 * difference.spread.mean:+.2f}{_plus_minus(difference.spread.half_width)}"
            verdict = difference.verdict + "*" * difference.survives
            if arm.kind != kind:
                kind = arm.kind
                lines.append(f"| **{kind}**, less the {arm.other} | | | | | | |")
        lines.append(
            f"| {arm.name} | {changed and f'`{changed}`'} | {steps} | {100 * sparsity:.1f} "
            f"| {100 * own.mean:.2f}{_plus_minus(own.deviation)} | {less} | {verdict} |"
        )
    return "\n".join([*lines, "", *_notes(recipe, by_arm)]) + "\n"


def _notes(recipe: str, by_arm: dict[Arm, list[Run]]) -> list[str]:
    runs = by_arm[Arm(REFERENCE)]
    held_out, compared = runs[0].settings["dataset.validation_size"], len(by_arm) - 1
    steps = {training_steps(run) for arm, own in by_arm.items() for run in own if arm.name != FEWER}
    same = "the same number of training steps" if len(steps) == 1 else "DIFFERENT numbers of steps"
    notes = [
        f"{len(runs)} seeds from {min(run.seed for run in runs)} on, each with images of its own; "
        f"accuracy of the last epoch on {held_out:,} held-out training images. The arms take "
        f"{same}{f', but for {FEWER}' if _has(by_arm, FEWER) else ''}.",
        "",
        '"helps" and "hurts" are said of the part, so that a part helps where an arm without it is '
        f'worse; "{NOTHING}": the interval holds 0. Of {compared} intervals of 95 %, '
        f"{compared * (1 - groups.CONFIDENCE):.1f} exclude 0 by chance where no part does anything "
        f"at all. A star (*) stands where the difference is clear for all {compared} at once "
        f"(Bonferroni, intervals of {100 * (1 - (1 - groups.CONFIDENCE) / compared):.2f} %).",
    ]
    if any(arm.kind == TAKEN_OUT for arm in by_arm):
        notes += [
            "",
            "Runs of the same settings stand in two rows: without downscale is replay high_loss, "
            f"without replay is downscale, without cut and replay is {DENSE}. The step between "
            "without cut and without downscale is the cut alone.",
        ]
    told = [note for name, note in OF_SOME.items() if _has(by_arm, name)]
    return [*notes, *(["", " ".join(told)] if told else [])]


def _has(by_arm: dict[Arm, list[Run]], name: str) -> bool:
    return any(arm.name == name for arm in by_arm)


def _plus_minus(share: float | None) -> str:
    return "" if share is None else f" ± {100 * share:.2f}"


def write_runs(path: Path, by_recipe: dict[str, dict[Arm, list[Run]]]) -> None:
    """A line for every run of every arm."""
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["recipe", "arm", "seed", "validation_accuracy", "sparsity", "training_steps"]
        )
        for recipe, by_arm in by_recipe.items():
            for arm, runs in by_arm.items():
                for run in runs:
                    own = validation_accuracy(run), run.end.sparsity, training_steps(run)
                    writer.writerow([recipe, arm.name, run.seed, *own])


def forest(by_recipe: dict[str, dict[Arm, Difference]]) -> Figure:
    """A row for every arm, its difference with the 95 % interval; a panel for every recipe."""
    longest = max(map(_height, by_recipe.values()))
    figure = Figure(figsize=(4.6 * len(by_recipe), 1.2 + 0.2 * longest), layout="constrained")
    panels = figure.subplots(1, len(by_recipe), squeeze=False)[0]
    for axes, (recipe, found) in zip(panels, by_recipe.items(), strict=True):
        _panel(axes, found)
        axes.set_ylim(0.3 - longest, 0.4)
        axes.set_title(recipe, fontsize=9)
    marks = [
        panels[0].plot([], [], "o", color=colour, markersize=4, label=f"the part {word}")[0]
        for word, colour in COLOURS.items()
        if word != NOTHING
    ]
    marks += panels[0].plot([], [], "o", color=COLOURS[NOTHING], markersize=4, label=NOTHING)
    marks += panels[0].plot([], [], " ", label="*: clear for all rows at once")
    figure.legend(
        handles=marks,
        loc="outside lower center",
        ncols=2 * len(by_recipe),
        fontsize=7.5,
        frameon=False,
    )
    return figure


def _height(found: dict[Arm, Difference]) -> float:
    """Of a panel, in rows."""
    return len(found) + sum(HEADING) * len({arm.kind for arm in found})


def _panel(axes: Axes, found: dict[Arm, Difference]) -> None:
    low, high = _limits(list(found.values()))
    place, kind, ticks = 0.0, None, {}
    words = {"va": "center", "fontsize": 7, "clip_on": False}
    by_axes = axes.get_yaxis_transform()
    for arm, difference in found.items():
        if arm.kind != kind:
            kind = arm.kind
            side = "right" if kind == ADDED else "left"
            place -= HEADING[0]
            axes.text(0.0, place, f"{kind} ({side}: the part helps)", transform=by_axes, **words,
                      fontweight="bold", backgroundcolor="white")  # fmt: skip
            place -= HEADING[1]
        mean, half = 100 * difference.spread.mean, 100 * (difference.spread.half_width or 0)
        colour = COLOURS[difference.verdict]
        ticks[place] = arm.name
        if low <= mean <= high:
            axes.plot([mean - half, mean + half], [place, place], color=colour, linewidth=1.4)
            axes.plot(mean, place, "o", color=colour, markersize=4)
        else:  # its number stands beside it
            edge, mark = (low, "<") if mean < low else (high, ">")
            axes.plot(edge, place, mark, color=colour, markersize=6, clip_on=False)
        number = f"{mean:+.2f} ± {half:.2f}{'*' if difference.survives else ''}"
        axes.text(1.02, place, number, transform=by_axes, color=colour, **words)
        place -= 1
    axes.axvline(0, color="black", linewidth=0.7, zorder=0)
    axes.set_xlim(low, high)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_xlabel("difference in validation accuracy (points)", fontsize=8)
    axes.grid(axis="x", alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _limits(found: list[Difference]) -> tuple[float, float]:
    """Of the axis, in points: an arm that is far from all others must not shrink them to dots."""
    ends = [
        (100 * (one.spread.mean - half), 100 * (one.spread.mean + half))
        for one in found
        for half in [one.spread.half_width or 0]
    ]
    far = sorted(max(-low, high, 0.1) for low, high in ends)
    most = 3 * far[(3 * len(far)) // 4 - 1 if len(far) > 3 else -1]
    near = [(low, high) for low, high in ends if max(-low, high) <= most]
    low, high = min(0.0, *(low for low, _ in near)), max(0.0, *(high for _, high in near))
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
