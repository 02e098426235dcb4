"""What do replay, distillation and pruning do to forgetting?

    python scripts/run_continual.py [data=digits,permuted,cifar10] [only=NAME,…] OVERRIDE…

Trains a SimpleCNN on streams of five tasks that never come back (``experiment=continual``): the
digits and 10,000 images of CIFAR-10 two classes at a time, and the digits with their pixels in
another order for every task. "nothing" is never cut, and the steps of its cycles are on the
present task, as in the arms with only a teacher or only pruning. So all arms take the same number
of steps, and an arm differs from "nothing" only by what it is named after. "joint" has all classes
from the start and sees as many images; of permuted pixels it is a memory with room for all.
Differences are paired by seed, and from "nothing"; but those of "self by task" are from "nothing by
task": their cycles come when a task ends, so that the teacher is the network of the earlier tasks
throughout the next one (learning without forgetting, Li and Hoiem 2016).

The learning rate is a tenth of Adam's usual one: at 0.001 the jump of the loss with which a task
begins kills hidden units for good, in some runs all of them. It, CIFAR-10's batches and the
teacher's weight, 0.9 without replay and 0.5 with it, were chosen on held-out training images
(``dataset.validation_size``); the runs here train on all of them.

Any override of refine-run is passed on, but ``dataset=`` and ``dataset.root=`` are for CIFAR-10
alone: ``dataset=image_folder dataset.root=DIR`` says where its pictures are. ``home=DIR``,
``seeds=5`` and ``workers=N`` are as in scripts/seeds.py. Writes ``runs.csv``, ``table.md`` and
``continual.png``.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from seeds import asked, run_seeds

from refine.records.files import write_text, written_whole
from refine.records.rows import CYCLES_FILE, EPOCHS_FILE
from refine.report import groups
from refine.report.runs import Run

NOTHING, BY_TASK, REPLAY, JOINT = "nothing", "nothing by task", "reservoir", "joint"
UNCUT, TEACHER = "pruner=none", ("distillation=self", "distillation.during=cycle")
ALONE = ("distillation.during=cycle", "distillation.weight=0.9")  # a teacher without replay
# A cycle where a task ends, with the steps of all the 19 that are then not done.
TASK_BY_TASK = ("schedule.interval=4", "replay.steps=95")
ARMS = {
    NOTHING: [UNCUT, "replay=training"],
    "uniform": [UNCUT, "replay=uniform"],
    REPLAY: [UNCUT, "replay=reservoir"],
    "class_balanced": [UNCUT, "replay=class_balanced"],
    "herding": [UNCUT, "replay=herding"],
    "high_loss": [UNCUT, "replay=high_loss"],
    "prioritized": [UNCUT, "replay=prioritized"],
    "uncertainty": [UNCUT, "replay=uncertainty"],
    "generative": [UNCUT, "replay=generative", "replay.vae.training_steps=100"],
    "self": [UNCUT, "replay=training", "distillation=self", *ALONE],
    "ema": [UNCUT, "replay=training", "distillation=ema", *ALONE],
    BY_TASK: [UNCUT, "replay=training", *TASK_BY_TASK],
    "self by task": [UNCUT, "replay=training", "distillation=self", *ALONE, *TASK_BY_TASK],
    "pruning": ["replay=training"],
    "reservoir and self": [UNCUT, "replay=reservoir", *TEACHER],
    "reservoir and pruning": ["replay=reservoir"],
    "all three": ["replay=reservoir", *TEACHER],
    JOINT: [UNCUT, "replay=none", "schedule=never"],
}
# The network that is measured last is the last one: no cycle after the last epoch.
BASE = (
    "experiment=continual", "trainer.optimizer.lr=0.0001",
    "save_model=false", "checkpoint.every=0",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A stream: its overrides, those of its "joint", its arms, and the source of its images."""

    title: str
    base: tuple[str, ...]
    joint: tuple[str, ...]
    arms: tuple[str, ...] = tuple(ARMS)
    own_dataset: tuple[str, ...] = ()


SETTINGS = {
    # 20 epochs of 5 steps and 19 cycles of 20 are 480 steps, 20 epochs of all digits are 460.
    # The digits have 8x8 pixels: 16x16 show all of them and take a quarter of the time of 32x32.
    "digits": Setting(
        "digits, two classes a task", ("dataset.image_size=16",), ("dataset.split=none",)
    ),
    # nothing can be joined: the bound is a memory that has room for all that was seen
    "permuted": Setting(
        "digits, pixels permuted by task",
        ("dataset.split=permuted", "dataset.image_size=8"),
        ("replay=reservoir", "replay.buffer_size=7200", "schedule=periodic"),
        (NOTHING, REPLAY, JOINT),
    ),
    # Few steps between two replays, or an epoch of the new task undoes them: 160 steps of 250
    # and 19 cycles of 20 steps of 64 see 64,320 images, 6 epochs of all images 60,000.
    "cifar10": Setting(
        "CIFAR-10, two classes a task",
        (
            "dataset.split=classes", "dataset.subset_size=10000", "dataset.augment=none",
            "dataset.test_size=2000", "trainer.batch_size=250", "replay.buffer_size=500",
        ),
        ("dataset.split=none", "trainer.epochs=6", "trainer.batch_size=64"),
        (NOTHING, REPLAY, "self", "pruning", "reservoir and pruning", "all three", JOINT),
        own_dataset=("dataset=cifar10",),
    ),
}  # fmt: skip
# Okabe and Ito's colours
ORANGE, SKY, GREEN, PINK, RED, BLUE, GREY = (
    "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#999999",
)  # fmt: skip
DRAWN = {
    NOTHING: GREY, REPLAY: BLUE, "generative": SKY, "self": GREEN, "pruning": ORANGE,
    "all three": RED, JOINT: "black",
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The result of one run; without forgetting if it had no tasks. ``curve``: average accuracy
    after every epoch; ``tasks``: which of them that was."""

    seed: int
    average_accuracy: float
    forgetting: float | None
    sparsity: float
    memory_bytes: int
    curve: list[float]
    tasks: list[int]


Outcomes = dict[str, dict[str, list[Outcome]]]  # by data and arm


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments, home="results/continual", data=",".join(SETTINGS), only=",".join(ARMS)
    )
    home = Path(options["home"])
    wanted = [_known("only", name, ARMS) for name in options["only"].split(",")]
    chosen = [_known("data", name, SETTINGS) for name in options["data"].split(",")]
    by_data: Outcomes = {}
    for data in chosen:
        setups = _setups(SETTINGS[data], wanted, overrides)
        folders = {name.replace(" ", "_"): own for name, own in setups.items()}
        found, _ = run_seeds(home / "runs" / data, folders, options)
        by_data[data] = {
            name: [outcome(run) for run in found[name.replace(" ", "_")]] for name in setups
        }
    write_runs(home / "runs.csv", by_data)
    text = "\n".join(f"## {SETTINGS[data].title}\n\n{table(by_data[data])}" for data in chosen)
    write_text(home / "table.md", text)
    with written_whole(home / "continual.png") as part:
        drawn(by_data).savefig(part, format="png", dpi=200)
    print(f"\n{text}\n{home / 'continual.png'}")
    return 0


def _known(option: str, name: str, names: dict) -> str:
    if name not in names:
        raise SystemExit(f"{option}: there is no {name!r}; one of: {', '.join(names)}")
    return name


def _setups(setting: Setting, wanted: list[str], overrides: list[str]) -> dict[str, list[str]]:
    """The overrides of the arms that are wanted and of their controls."""
    where = [entry for entry in overrides if entry.startswith(("dataset=", "dataset.root="))]
    passed = [entry for entry in overrides if entry not in where]
    dataset = []
    if setting.own_dataset:
        given = any(entry.startswith("dataset=") for entry in where)
        dataset = [*([] if given else setting.own_dataset), *where]
    needed = {NOTHING, *wanted, *(control(name) for name in wanted)}
    setups = {}
    for name in (name for name in setting.arms if name in needed):
        own = [*ARMS[name]]
        if name == JOINT:  # a group can be given only once
            replaced = {entry.partition("=")[0] for entry in setting.joint}
            own = [entry for entry in own if entry.partition("=")[0] not in replaced]
        joint = setting.joint if name == JOINT else ()
        setups[name] = [*BASE, *dataset, *setting.base, *own, *joint, *passed]
    return setups


def control(name: str) -> str:
    """The arm that differs from this one only in what it is named after."""
    return BY_TASK if name == "self by task" else NOTHING


def outcome(run: Run) -> Outcome:
    """Of its last epoch and its last cycle."""
    epochs, cycles = _rows(run.directory / EPOCHS_FILE), _rows(run.directory / CYCLES_FILE)
    column = "average_accuracy" if "average_accuracy" in epochs[-1] else "test_accuracy"
    return Outcome(
        run.seed,
        float(epochs[-1][column]),
        float(epochs[-1]["forgetting"]) if "forgetting" in epochs[-1] else None,
        float(epochs[-1]["sparsity"]),
        int(cycles[-1]["memory_bytes"]) if cycles else 0,
        [float(row[column]) for row in epochs],
        [int(row.get("task", 1)) for row in epochs],
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():  # a run without a cycle
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(by_arm: dict[str, list[Outcome]]) -> str:
    """Average accuracy and forgetting of every arm, and how far they are from its control's and
    from replay alone, paired by seed."""
    lines = [
        "| arm | n | average accuracy (%), mean ± sd | less its control, mean ± 95 % t interval "
        "| less replay alone | forgetting (%), mean ± sd | less its control | less replay alone "
        "| memory (KiB) | sparsity (%) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, outcomes in by_arm.items():
        cells = []
        for measure in ("average_accuracy", "forgetting"):
            cells += [
                _mean(outcomes, measure),
                ""
                if name in (NOTHING, BY_TASK)
                else _less(outcomes, by_arm[control(name)], measure),
                _less(outcomes, by_arm.get(REPLAY, []), measure) if _adds(name) else "",
            ]
        memory = groups.spread([run.memory_bytes / 1024 for run in outcomes]).mean
        sparsity = groups.spread([100 * run.sparsity for run in outcomes]).mean
        lines.append(
            f"| {name} | {len(outcomes)} | {' | '.join(cells)} | {memory:,.0f} | {sparsity:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _adds(name: str) -> bool:
    """Whether the arm is replay and something else."""
    return name in ("reservoir and self", "reservoir and pruning", "all three")


def _mean(outcomes: list[Outcome], measure: str) -> str:
    values = [getattr(run, measure) for run in outcomes]
    if None in values:
        return ""
    own = groups.spread([100 * value for value in values])
    return f"{own.mean:.2f}" + ("" if own.deviation is None else f" ± {own.deviation:.2f}")


def _less(outcomes: list[Outcome], others: list[Outcome], measure: str) -> str:
    theirs = {run.seed: getattr(run, measure) for run in others}
    pairs = [(getattr(run, measure), theirs.get(run.seed)) for run in outcomes]
    if any(None in pair for pair in pairs):
        return ""
    less = groups.spread([100 * (own - other) for own, other in pairs])
    return f"{less.mean:+.2f}" + ("" if less.half_width is None else f" ± {less.half_width:.2f}")


def write_runs(path: Path, by_data: Outcomes) -> None:
    """A line for every run."""
    columns = ("seed", "average_accuracy", "forgetting", "sparsity", "memory_bytes")
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["data", "arm", *columns])
        for data, by_arm in by_data.items():
            for name, outcomes in by_arm.items():
                for run in outcomes:
                    writer.writerow([data, name, *(getattr(run, column) for column in columns)])


def drawn(by_data: Outcomes) -> Figure:
    """For each stream, average accuracy over epochs, and the forgetting at the end."""
    heights = [max(2.6, 0.8 + 0.17 * len(by_arm)) for by_arm in by_data.values()]
    figure = Figure(figsize=(7.5, sum(heights)), layout="constrained")
    panels = figure.subplots(len(by_data), 2, squeeze=False, height_ratios=heights)
    for (left, right), (data, by_arm) in zip(panels, by_data.items(), strict=True):
        for axes in (left, right):
            axes.tick_params(labelsize=7.5)
            axes.grid(alpha=0.25, linewidth=0.5, axis="x" if axes is right else "both")
            axes.spines[["top", "right"]].set_visible(False)
        _curves(left, by_arm)
        left.set_title(SETTINGS[data].title, fontsize=9)
        _bars(right, by_arm)
    return figure


def _curves(axes: Axes, by_arm: dict[str, list[Outcome]]) -> None:
    tasks = by_arm[NOTHING][0].tasks
    for epoch in range(1, len(tasks)):
        if tasks[epoch] != tasks[epoch - 1]:
            axes.axvline(epoch + 0.5, color="#BBBBBB", linewidth=0.7, linestyle=":", zorder=0)
    for name, colour in DRAWN.items():
        if name not in by_arm:
            continue
        ends = groups.spread([100 * run.average_accuracy for run in by_arm[name]])
        if by_arm[name][0].forgetting is None:
            axes.axhline(ends.mean, color=colour, linewidth=1, linestyle="--", label=name)
            continue
        epochs = zip(*(run.curve for run in by_arm[name]), strict=True)
        means = [groups.spread([*epoch]).mean for epoch in epochs]
        axes.plot(
            range(1, len(means) + 1), [100 * mean for mean in means], color=colour, label=name,
            linewidth=1.2, linestyle="--" if name == JOINT else "-", marker="o", markersize=2,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 4, 5, 10]))
    axes.set_xlabel("epoch; dotted: the next task begins", fontsize=8)
    axes.set_ylabel("average accuracy of tasks so far (%)", fontsize=8)
    axes.set_ylim(0, 104)
    axes.legend(fontsize=6.5, frameon=False, loc="best", ncols=2, columnspacing=1)


def _bars(axes: Axes, by_arm: dict[str, list[Outcome]]) -> None:
    names = [name for name, runs in by_arm.items() if runs[0].forgetting is not None]
    spreads = [groups.spread([100 * run.forgetting for run in by_arm[name]]) for name in names]
    axes.barh(
        names, [entry.mean for entry in spreads], xerr=[entry.deviation or 0 for entry in spreads],
        color=[_kind(name) for name in names], height=0.7,
        error_kw={"linewidth": 0.8, "capsize": 1.5},
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlabel("forgetting at the end (%), mean and sd", fontsize=8)


def _kind(name: str) -> str:
    if name in (NOTHING, BY_TASK, JOINT):
        return GREY
    if _adds(name):
        return RED
    if name == "pruning":
        return ORANGE
    return GREEN if name in ("self", "ema", "self by task") else BLUE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
