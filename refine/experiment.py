"""What is one run, from its configuration to its files?"""

import dataclasses
import logging
import random
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import DictConfig

from refine.builders import assembled, build_course, build_model
from refine.config import validate
from refine.datasets.course import Course
from refine.datasets.prepare import prepare
from refine.errors import SettingError, Stop, TrainingError
from refine.process import Signals
from refine.records.directory import RunDirectory
from refine.records.files import uninterrupted
from refine.records.rows import (
    CACHE_DIRECTORY,
    EPOCHS_FILE,
    FIGURE_FILE,
    CycleRow,
    EpisodeRow,
    EpochRow,
)
from refine.refinement import RuntimeRefinement
from refine.report.figure import draw_run
from refine.report.stages import stages
from refine.tracking.safe import SafeTracker
from refine.training.checkpoint import Checkpoints, Parts, save_model
from refine.training.device import (
    Precision,
    be_deterministic,
    choose_device,
    describe,
    keep_freed_memory,
)
from refine.training.trainer import cycle_follows, train

log = logging.getLogger("refine")


class Display(Protocol):
    """Where a run is shown; see refine/report/terminal.py."""

    def begin(self, headline: str, epochs: int) -> None: ...
    def step(self, step: int, steps: int) -> None: ...
    def show(self, row: EpochRow | CycleRow) -> None: ...
    def end(self, summary: dict[str, Any], directory: Path) -> None: ...


def run(
    config: DictConfig, display: Display, directory: str | None = None, *, again: bool = False
) -> dict[str, Any]:
    """Runs what ``config`` says and returns the summary that it also leaves in the run's directory.

    ``again``: the directory may hold an earlier part of the same run. Then it goes on from the last
    checkpoint, or begins anew where there is none; ``config.resume`` insists on one.

    SettingError for a setting that cannot be followed; then nothing is left. Whatever
    stops it after the first epoch leaves what was measured, with summary and figure; the saved
    network is then as it was when it stopped. Stop with the status "preempted" leaves a checkpoint
    and no summary: the run has not ended.
    """
    validate(config)
    device = choose_device(config.device)
    be_deterministic(config.trainer.deterministic)
    precision = Precision(config.trainer.precision, device)
    again = again or config.resume is not None
    with (
        RunDirectory(config.resume or directory or config.output_dir, again=again) as files,
        Signals() as signals,
    ):
        _seed(config.seed)
        keep_freed_memory()
        checkpoints = Checkpoints(files.path)
        state = _earlier(config, files.path, checkpoints) if again else None
        course = build_course(config, prepare(config.dataset, config.seed, device))
        data = course.tasks[0]
        model = build_model(config.model, data, device)

        def on_episode(row: EpisodeRow) -> None:
            files.record(row)
            parts.episodes.append(row)
            display.step(row.episode, config.regrowth.controller.episodes)
            signals.check()

        training, parts = assembled(
            config,
            model,
            course,
            precision,
            files.path / CACHE_DIRECTORY,
            signals.check,
            on_episode,
            fresh=state is None,
        )
        earlier_seconds = state.get("seconds", 0.0) if state else 0.0
        if state:
            _restore_(parts, state, config)
        tracker = SafeTracker(config, files.path, parts.position.epoch)
        if again:
            files.begin_again([*parts.rows, *parts.episodes])
        files.describe(config, {"device": describe(device), "precision": precision.name})
        display.begin(_headline(config, course, device, precision), config.trainer.epochs)

        refinement = training["refinement"]
        at, rows, every = parts.position, parts.rows, config.checkpoint.every
        stopped: BaseException | None = None
        started = time.perf_counter() - earlier_seconds

        def save() -> None:
            checkpoints.save(parts.state() | {"seconds": time.perf_counter() - started})

        def on_step(step: int, steps: int) -> None:
            display.step(step, steps)
            signals.check()

        signals.stepping = True
        try:
            if every and not state:
                save()
            for row in train(model, course, on_step=on_step, **training):
                with uninterrupted():
                    files.record(row)
                    rows.append(row)
                tracker.row(row, refinement.masks)
                display.show(row)
                due = isinstance(row, CycleRow) or at.epoch == config.trainer.epochs
                due = due or cycle_follows(at, training["schedule"], refinement)
                if every and (due or at.epoch % every == 0):
                    save()
        except (KeyboardInterrupt, Stop, Exception) as error:
            if isinstance(error, Stop) and every and not at.in_cycle:
                save()
            if isinstance(error, Stop) and error.status == "preempted" and every:
                files.keep = True
                log.warning("%s; refine-run resume=%s goes on from here", error, files.path)
                raise
            measured = any(isinstance(row, EpochRow) for row in rows)
            if not measured and not isinstance(error, Exception):
                raise
            if not measured and isinstance(error, SettingError | TrainingError | OSError):
                raise
            if not measured:
                raise SettingError("model", f"cannot be trained: {error}") from error
            stopped = error
            log.error("%s", _reason(error))
            log.debug("where it stopped", exc_info=error)

        signals.stepping = False
        summary = _summary(rows, refinement, time.perf_counter() - started)
        summary |= _of_channels(config, rows, refinement)
        try:
            draw_run(files.path)
            if config.save_model:
                save_model(model, files.path / "model.safetensors")
        except (OSError, SettingError) as error:  # such as a full disk
            stopped = stopped or error
        summary |= {"status": _status(stopped), "reason": _reason(stopped) if stopped else None}
        files.summarize(summary)
        tracker.end(summary, files.path / FIGURE_FILE)
        if stopped is None:  # one is enough to go on to more epochs
            checkpoints.before.unlink(missing_ok=True)
            if not config.checkpoint.keep:
                checkpoints.latest.unlink(missing_ok=True)
        display.end(summary, files.path)
        if stopped is not None:
            raise stopped
        return summary


def _earlier(config: DictConfig, directory: Path, checkpoints: Checkpoints) -> dict | None:
    """What an earlier part of the run has left to go on from, if anything."""
    state, problems = checkpoints.load()
    for problem in problems:
        log.warning("%s", problem)
    if state is None and config.resume and (problems or (directory / EPOCHS_FILE).exists()):
        what = "; ".join(problems) or "it was run with checkpoint.every=0"
        raise SettingError(
            "resume",
            f"there is nothing to go on from in {directory}: {what}. "
            f"refine-run --config-path {directory} runs it anew",
        )
    return state


def _restore_(parts: Parts, state: dict[str, Any], config: DictConfig) -> None:
    position, epochs = state.get("position", {}), config.trainer.epochs
    epoch = position.get("epoch", 0)
    if epoch + (position.get("step", 0) > 0) > epochs:
        if config.resume:
            problem = f"is {epochs}, and this run has done {epoch}; set it higher"
        else:
            problem = f"is {epochs}, and resume= has taken this run to {epoch}; end it that way"
        raise SettingError("trainer.epochs", problem)
    if "learning_rate" not in state:
        raise SettingError("resume", "its checkpoint is of an earlier version of this program")
    try:
        parts.restore_(state)
        log.info("going on after epoch %d", epoch)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise SettingError(
            "resume", f"the checkpoint does not fit this network and recipe: {error!s:.200}"
        ) from error


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _headline(
    config: DictConfig, course: Course, device: torch.device, precision: Precision
) -> str:
    parts = {"training": "train", "validation": "validation", "test": "test"}
    counts = {
        name: sum(len(getattr(task, part)) for task in course.tasks)
        for name, part in parts.items()
        if getattr(course.tasks[0], part)
    }
    images = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    stream = f" in {len(course.tasks)} tasks" if len(course.tasks) > 1 else ""
    model, dataset = (node._target_.rpartition(".")[2] for node in (config.model, config.dataset))
    return (
        f"{model} on {dataset}"
        f" ({images} images{stream}), "
        f"{describe(device)}, {precision.name}, seed {config.seed}"
    )


def _of_channels(
    config: DictConfig, rows: list[EpochRow | CycleRow], refinement: RuntimeRefinement
) -> dict[str, Any]:
    """What else there is to say of channels taken out, and of sparse training."""
    found: dict[str, Any] = {}
    if refinement.channels is not None:
        now, dense = refinement.channels.left_now()["macs"], refinement.channels.dense_macs
        found |= {"macs": now, "dense_macs": dense, "speedup": dense / now}
    if config.regularizer.kind != "none":
        node = config.regularizer
        found["stages"] = stages(rows, node.start, node.stop)
    return found


def _reason(error: BaseException) -> str:
    return str(error) or ("interrupted" if isinstance(error, KeyboardInterrupt) else repr(error))


def _status(stopped: BaseException | None) -> str:
    if isinstance(stopped, Stop):
        return stopped.status
    if isinstance(stopped, KeyboardInterrupt):
        return "interrupted"
    return "failed" if stopped else "finished"


def _summary(
    rows: list[EpochRow | CycleRow], refinement: RuntimeRefinement, seconds: float
) -> dict[str, Any]:
    """The final figures: counts of the network as it is, accuracies as last measured. A cycle after
    the last epoch has the last word on what it changed."""
    last = [row for row in rows if isinstance(row, EpochRow)][-1]
    final = rows[-1]
    cut_last = isinstance(final, CycleRow) and final.test_accuracy_after_replay is not None
    return {
        "status": None,  # as it ends
        "reason": None,
        "epochs": last.epoch,
        "cycles": refinement.cycles,
        "test_accuracy": final.test_accuracy_after_replay if cut_last else last.test_accuracy,
        "validation_accuracy": None if cut_last else last.validation_accuracy,
        "train_accuracy": last.train_accuracy,
        "train_loss": last.train_loss,
        "sparsity": refinement.sparsity,
        "prunable_sparsity": refinement.prunable_sparsity,
        "active_parameters": refinement.active_parameters,
        "total_parameters": refinement.total_parameters,
        "compression": refinement.total_parameters / refinement.active_parameters,
        "seconds": seconds,
        **({} if last.forgetting is None or cut_last else {"forgetting": last.forgetting}),
        "last_epoch": dataclasses.asdict(last),
    }
