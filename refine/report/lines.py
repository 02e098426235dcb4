"""How is a run put into words: a row, its end, and what can be done with it next?"""

import shlex
from pathlib import Path
from typing import Any

from refine.plain import counted
from refine.records.rows import (
    CHECKPOINT_FILES,
    EPOCHS_FILE,
    FIGURE_FILE,
    MODEL_FILE,
    CycleRow,
    EpochRow,
)

# What is shown while a step of a cycle runs (refine/cycle.py); others are shown by their names.
PHASES = {
    "score": "scoring", "choose": "choosing", "snapshot": "keeping a copy",
    "downscale": "scaling down", "cut": "cutting", "measure_cut": "evaluating the cut",
    "regrow": "regrowing", "recover": "rewinding", "measure_replay": "evaluating",
    "measure": "evaluating",
}  # fmt: skip


def line(row: EpochRow | CycleRow, epochs: int) -> str:
    """A row as one line of text."""
    if isinstance(row, CycleRow):
        seconds = row.importance_seconds + row.downscale_seconds + row.cut_seconds
        grown = f", grew {row.grown_weights:,}" if row.grown_weights else ""
        text = (
            f"cycle {row.cycle} after epoch {row.epoch}: cut {row.cut_weights:,} weights{grown}, "
            f"sparsity {row.sparsity:.1%}"
        )
        if row.macs is not None:
            text += f", {row.channels:,} channels and {row.macs / 1e6:,.2f} M MACs are left"
        if row.test_accuracy_before is not None:
            before, after_cut = row.test_accuracy_before, row.test_accuracy_after_cut
            text += f", test {before:.2%} -> cut {after_cut:.2%}"
            if row.replay_steps:
                text += (
                    f" -> replayed {row.test_accuracy_after_replay:.2%} ({row.replay_steps} steps)"
                )
            elif row.grown_weights:
                text += f" -> grown {row.test_accuracy_after_replay:.2%}"
        return f"{text} ({seconds + row.replay_seconds + row.regrowth_seconds:.1f} s)"
    held_out = ""
    if row.validation_accuracy is not None:
        held_out = f"  validation {row.validation_accuracy:7.2%}"
    stream = ""
    if row.task is not None:
        stream = f"  task {row.task}, forgetting {row.forgetting:.2%}"
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.train_loss:.4f}  "
        f"train {row.train_accuracy:7.2%}{held_out}  test {row.test_accuracy:7.2%}{stream}  "
        f"sparsity {row.sparsity:6.1%}  lr {row.learning_rate:.2g}  {row.epoch_seconds:.1f} s"
    )


def phase(cycle: int, step: str) -> str:
    """What a cycle is doing, such as "cycle 1: scoring"; cycle 0: an epoch is measured."""
    what = PHASES.get(step, step.replace("_", " "))
    return f"cycle {cycle}: {what}" if cycle else what


def gains(summary: dict[str, Any]) -> dict[str, str]:
    """What a run has reached, as rows of a table."""
    active, total = summary["active_parameters"], summary["total_parameters"]
    share = summary["prunable_sparsity"]
    forgotten = {}
    if "forgetting" in summary:
        forgotten = {"forgetting": f"{summary['forgetting']:.2%} of the earlier tasks, on average"}
    return {
        "test accuracy": f"{summary['test_accuracy']:.2%}",
        **forgotten,
        "sparsity": f"{summary['sparsity']:.1%} of all, {share:.1%} of the prunable weights",
        "parameters": f"{active:,} active of {total:,}",
        "compression": f"{summary['compression']:.2f}x, counting active parameters",
        **_channels_and_stages(summary),
        "time": f"{summary['seconds']:.1f} s, {counted(summary['cycles'], 'refinement cycle')}",
    }


def files(directory: Path) -> list[str]:
    """What the run has left, a line each."""
    names = {"metrics": EPOCHS_FILE, "figure ": FIGURE_FILE, "network": MODEL_FILE}
    there = {what: directory / name for what, name in names.items() if (directory / name).exists()}
    return [f"{what}  {path} ({size(path.stat().st_size)})" for what, path in there.items()]


def next_commands(summary: dict[str, Any], directory: Path) -> list[str]:
    """What can be done with the run now, as commands to type."""
    place = shlex.quote(str(directory))
    if summary["status"] != "finished":
        if not any((directory / name).exists() for name in CHECKPOINT_FILES):
            return []
        return [f"refine-run {shlex.quote(f'resume={directory}')}  # goes on from here"]
    if not (directory / MODEL_FILE).exists():
        return [f"refine-report {place}  # its cycles as a table"]
    return [
        f"refine-report {place}  # its cycles as a table",
        f"refine-export {place}  # files to deploy",
        f"refine-bench {place}  # is it faster?",
    ]


def size(count: int) -> str:
    """A number of bytes, in words."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def _channels_and_stages(summary: dict[str, Any]) -> dict[str, str]:
    """Rows of the table for a run that cut channels, and for the stages of sparse training."""
    found = {}
    if "macs" in summary:
        found["MACs"] = (
            f"{summary['macs']:,} of {summary['dense_macs']:,} an image, "
            f"{summary['speedup']:.2f}x fewer"
        )
    for entry in summary.get("stages", ()):
        found[entry["stage"]] = f"{entry['test_accuracy']:.2%} after epoch {entry['epoch']}"
    return found
