"""What is one run, from its configuration to its files?"""

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from refine.builders import build_course, build_data, build_model, build_trainer
from refine.builders.described import as_trained, described
from refine.channels.cut import ChannelCut
from refine.config import RunConfig, typed, validate
from refine.datasets.identity import check_same, data_identity
from refine.errors import SettingError, Stop, TrainingError
from refine.process import Signals
from refine.records.directory import RunDirectory
from refine.records.files import uninterrupted, write_text
from refine.records.rows import (
    CACHE_DIRECTORY,
    FIGURE_FILE,
    MODEL_FILE,
    NETWORK_FILE,
    CycleRow,
    EpisodeRow,
    EpochRow,
)
from refine.records.summary import ending, summary_of
from refine.report.display import Display
from refine.report.stages import stages
from refine.rng import seed_all
from refine.stored.description import as_text
from refine.tracking.safe import SafeTracker
from refine.training import resume
from refine.training.checkpoint import Checkpoints, save_model
from refine.training.device import Machine, keep_freed_memory
from refine.training.headline import ahead, headline
from refine.training.state import Recorded, restore_, state_of
from refine.training.trainer import Trainer

log = logging.getLogger("refine")


def run(
    config: DictConfig, display: Display, directory: str | None = None, *, again: bool = False
) -> dict[str, Any]:
    """Runs what ``config`` says and returns the summary that it also leaves in the run's directory.

    ``again``: the directory may hold an earlier part of the same run, which then continues from its
    last checkpoint, or starts from the beginning if it has none; ``config.resume`` needs one.

    SettingError for a setting that cannot be used; then no files are left. A run that is stopped
    after the first epoch leaves its measurements, summary, figure and the network as it is then.
    Stop with the status "preempted" leaves a checkpoint and no summary, as the run has not ended.
    """
    validate(config)
    machine = Machine(config.device, config.trainer.precision, config.trainer.deterministic)
    again = again or config.resume is not None
    place = resume.place_of(config, directory)
    with RunDirectory(place, again=again) as files, Signals() as signals:
        display.place(files.path)
        signals.say = display.say
        session = Session(config, machine, files, signals, display)
        session.open(again)
        stopped = session.train()
        return session.write(stopped)


def draw_run(directory: Path, formats: str, dense_macs: int | None) -> None:
    """Draws the run's figure."""
    from refine.report import figure  # only here: matplotlib and pandas take long to import

    figure.draw_run(directory, formats, dense_macs)


@dataclass
class Session:
    """A run under way: it trains, records, saves and shows."""

    config: DictConfig
    machine: Machine
    files: RunDirectory
    signals: Signals
    display: Display
    recorded: Recorded = field(default_factory=Recorded)

    def open(self, again: bool) -> None:
        """Builds the parts of the run, and restores their state if an earlier part of the run has
        left one."""
        seed_all(self.config.seed)
        keep_freed_memory()
        self.settings: RunConfig = typed(self.config)
        self.checkpoints = Checkpoints(self.files.path)
        state = self.checkpoints.earlier(insist=bool(self.config.resume)) if again else None
        self.trainer = self._build(fresh=state is None)
        self._data = data_identity(self.trainer.course)
        if state is not None:
            self._restore(state)
        self._started = time.perf_counter() - resume.seconds_of(state)
        self.tracker = SafeTracker(self.config, self.files.path, self.trainer.at.epoch)
        if again:
            self.files.begin_again([*self.recorded.rows, *self.recorded.episodes])
        self.files.describe(self.config, self.machine.described())
        self.about = as_text(described(self.settings.model, self.trainer.course.tasks[0]))
        write_text(self.files.path / NETWORK_FILE, self.about + "\n")
        begun = headline(self.settings, self.trainer.course, self.machine)
        self.display.begin(begun, ahead(self.trainer))
        if self._saves and state is None:
            self._save()

    def train(self) -> BaseException | None:
        """Trains to the end. Returns the error that has stopped it after the first measurement, if
        any."""
        try:
            self.signals.stepping = True
            for row in self.trainer.rows():
                self._record(row)
        except (KeyboardInterrupt, Stop, Exception) as error:
            self._stopped(error)
            return error
        finally:
            self.signals.stepping = False
        return None

    def write(self, stopped: BaseException | None) -> dict[str, Any]:
        """Writes figure, network and summary; raises the error that has stopped the run, if any."""
        files, summary = self.files, self._summary()
        rows = [*self.recorded.rows, *self.recorded.episodes]
        for work in (partial(files.mend, rows), partial(self._draw, summary), self._save_network):
            try:
                work()
            except (OSError, SettingError) as error:  # such as a full disk
                stopped = stopped or error
        summary |= ending(stopped)
        files.summarize(summary)
        self.tracker.end(summary, files.path / FIGURE_FILE)
        if stopped is None:  # the latest is enough for more epochs, and only these need it
            self.checkpoints.before.unlink(missing_ok=True)
            if not self.settings.checkpoint.keep:
                self.checkpoints.latest.unlink(missing_ok=True)
        self.display.end(summary, files.path)
        if stopped is not None:
            raise stopped
        return summary

    def _draw(self, summary: dict[str, Any]) -> None:
        try:
            draw_run(self.files.path, self.settings.figure_formats, summary.get("dense_macs"))
        except OSError:
            raise
        except Exception as error:  # it can be drawn later, from the tables
            log.warning("the figure cannot be drawn: %r", error)

    def _save_network(self) -> None:
        if self.settings.save_model:
            save_model(self.trainer.model, self.files.path / MODEL_FILE, self.about)

    @property
    def _saves(self) -> bool:
        return self.settings.checkpoint.every > 0

    def _build(self, fresh: bool) -> Trainer:
        settings, device = self.settings, self.machine.device
        course = build_course(settings, build_data(settings.dataset, settings.seed, device))
        course = as_trained(settings, course, None if fresh else self.files.path)
        model = build_model(settings.model, course.tasks[0], device)
        return build_trainer(
            settings,
            model,
            course,
            self.machine.precision,
            self.files.path / CACHE_DIRECTORY,
            check=self.signals.check,
            on_step=self._on_step,
            on_episode=self._on_episode,
            on_phase=self.display.phase,
            fresh=fresh,
        )

    def _on_step(self, step: int, steps: int) -> None:
        self.display.step(step, steps)
        self.signals.check()

    def _on_episode(self, row: EpisodeRow) -> None:
        self.files.record(row)
        self.recorded.episodes.append(row)
        self.display.step(row.episode, self.settings.regrowth.controller.episodes)
        self.signals.check()

    def _record(self, row: EpochRow | CycleRow) -> None:
        with uninterrupted():
            self.files.record(row)
            self.recorded.rows.append(row)
        self.tracker.row(row, self.trainer.refinement.masks)
        self.display.show(row)
        epoch = self.trainer.at.epoch
        due = isinstance(row, CycleRow) or epoch == self.settings.trainer.epochs
        due = due or self.trainer.cycle_due() is not None
        if self._saves and (due or epoch % self.settings.checkpoint.every == 0):
            self._save()

    def _save(self) -> None:
        seconds = time.perf_counter() - self._started
        state = state_of(self.trainer, self.recorded)
        self.checkpoints.save(state | {"seconds": seconds, "data": self._data})

    def _stopped(self, error: BaseException) -> None:
        """Saves a checkpoint if the state allows it. Raises an error that leaves no ended run:
        before the first measurement, or if the run was preempted and is to be resumed."""
        if isinstance(error, Stop) and self._saves and not self.trainer.at.in_cycle:
            self._save()
        first = not any(isinstance(row, EpochRow) for row in self.recorded.rows)
        if isinstance(error, Stop) and self._saves and (error.status == "preempted" or first):
            self.files.keep = True
            log.warning("%s; refine-run resume=%s continues from here", error, self.files.path)
            raise error
        if first:
            clear = (SettingError, TrainingError, OSError)
            if not isinstance(error, Exception) or isinstance(error, clear):
                raise error
            raise SettingError("model", f"cannot be trained: {error}") from error
        if isinstance(error, Exception):  # an error, not somebody who wants to stop
            log.error("%s", ending(error)["reason"])
            log.debug("where it stopped", exc_info=error)

    def _restore(self, state: dict[str, Any]) -> None:
        epoch = resume.epoch_of(state, self.settings.trainer.epochs, bool(self.config.resume))
        check_same(state.get("data"), self._data)
        try:
            self.recorded.take(restore_(self.trainer, state))
            log.info("continuing after epoch %d", epoch)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
                RuntimeError, AssertionError) as error:  # fmt: skip
            problem = f"the checkpoint does not fit this network and recipe: {error!s:.200}"
            raise SettingError("resume", problem) from error

    def _summary(self) -> dict[str, Any]:
        refinement, rows = self.trainer.refinement, self.recorded.rows
        names = ("cycles", "sparsity", "prunable_sparsity", "active_parameters", "total_parameters")
        counts = {name: getattr(refinement, name) for name in names}
        summary = summary_of(rows, counts, time.perf_counter() - self._started)
        if isinstance(refinement.method, ChannelCut):
            now, dense = refinement.method.left()["macs"], refinement.method.dense_macs
            summary |= {"macs": now, "dense_macs": dense, "speedup": dense / now}
        if self.settings.regularizer.kind != "none":
            node = self.settings.regularizer
            summary["stages"] = stages(rows, node.start, node.stop)
        return summary
