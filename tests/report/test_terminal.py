"""What a terminal shows while a run goes on: phases, time left, where it is, what comes next."""

import io
import re

import pytest
from conftest import SMALL
from rich.console import Console

from refine import experiment
from refine.cli.compose import composed
from refine.report.remaining import Ahead, Remaining, spoken
from refine.report.terminal import Terminal


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Recording(Terminal):
    """Also keeps what the bars show at each event."""

    def __init__(self, width):
        self.screen = io.StringIO()
        super().__init__(Console(file=self.screen, force_terminal=True, width=width))
        self.bars = []

    def _keep(self):
        text = io.StringIO()
        console = Console(file=text, width=self.console.width)
        console.print(self._progress.get_renderable())
        self.bars.append(text.getvalue())

    def step(self, step, steps):
        super().step(step, steps)
        self._keep()

    def phase(self, cycle, step, done, of):
        super().phase(cycle, step, done, of)
        self._keep()

    def show(self, row):
        super().show(row)
        self._keep()


@pytest.fixture(scope="module", params=[80, 110])
def shown(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("shown") / "a run"
    changes = ("trainer.epochs=3", "schedule.interval=1", "save_model=true")
    config = composed([*SMALL, *changes, f"output_dir={directory}"])
    terminal = Recording(request.param)
    experiment.run(config, terminal)
    return terminal, directory


def test_the_phases_of_a_cycle_are_named_with_their_progress(shown):
    bars = "".join(shown[0].bars)
    for words in ("cycle 1: scoring", "cycle 1: cutting", "cycle 1: evaluating the cut",
                  "cycle 1: evaluating", "cycle 2: scoring", "cycle 1: replay"):  # fmt: skip
        assert words in bars
    steps = re.findall(r"(\d+)/(\d+) +cycle 1: replay", bars)
    assert len(steps) > 1
    assert steps[-1][0] == steps[-1][1]


def test_the_bars_fit_and_follow_a_cut_at_once(shown):
    terminal, _ = shown
    assert all(len(line) <= terminal.console.width for bar in terminal.bars
               for line in bar.splitlines())  # fmt: skip
    assert all(len(bar.splitlines()) == 2 for bar in terminal.bars)  # no line is broken
    shares = [re.search(r"sparsity (\S+)%", bar) for bar in terminal.bars]
    found = list(dict.fromkeys(float(share[1]) for share in shares if share))
    assert found[0] == 0
    assert len(found) == 3
    assert found == sorted(found)


def test_the_directory_comes_first_and_the_next_commands_last(shown):
    terminal, directory = shown
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.screen.getvalue())
    text = " ".join(text.split())
    assert text.startswith(f"results in {directory}")
    assert re.search(rf"network {directory}/model.safetensors \([\d.]+ [MkG]?B\)", text)
    for command in ("refine-report", "refine-export", "refine-bench"):
        assert f"{command} '{directory}' #" in text
    assert re.search(r"test \S+% -> cut \S+% -> replayed \S+%", text)
    assert "2 refinement cycles" in text


def test_what_is_left_counts_cycles():
    clock = Clock()
    left = Remaining(Ahead(epochs=4, cycles=3, replay_steps=20), clock)
    assert left.seconds() is None
    clock.now = 5.0
    left.step(5, 10)
    assert left.seconds() == pytest.approx(3.5 * 10 + 3 * 20)  # a second a step
    clock.now = 10.0
    left.epoch()
    assert left.seconds() == pytest.approx(3 * 10 + 3 * 20)
    clock.now = 40.0
    left.cycle()  # took 30 s
    assert left.seconds() == pytest.approx(3 * 10 + 2 * 30)


def test_a_resumed_run_has_less_before_it():
    clock = Clock()
    left = Remaining(Ahead(epochs=10, done=8), clock)
    clock.now = 3.0
    left.epoch()
    assert left.seconds() == pytest.approx(3)


def test_seconds_are_said_roughly():
    said = [spoken(seconds) for seconds in (None, 0.4, 89, 91, 3 * 3600, 2 * 86_400)]
    assert said == ["", "0 s left", "89 s left", "2 min left", "3 h left", "2 d left"]
