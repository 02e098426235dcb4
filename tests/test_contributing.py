"""What CONTRIBUTING.md says is done here, word for word."""

import csv
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL
from torch import nn

from refine import RuntimeRefinement
from refine.replay import Replay

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
IMPORTANCE, REPLAY, STEP, SCHEDULE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
TINY = (*SMALL, "model=logistic", "dataset.image_size=8")


@pytest.mark.parametrize("code", [IMPORTANCE, REPLAY, STEP, SCHEDULE])
def test_each_takes_less_than_ten_lines(code):
    assert len([line for line in code.splitlines() if line.strip()]) < 10


def test_an_importance_is_one_function(command, tmp_path):
    (tmp_path / "mine.py").write_text(IMPORTANCE)
    done = command("pruner.importance=mine.spread", *TINY, "output_dir=run")
    assert (done.code, done.err) == (0, "")
    (cycle,) = cycles(tmp_path / "run")
    assert int(cycle["cut_weights"]) == 288  # 15 % of 3 * 8 * 8 * 10


def test_a_replay_is_one_function(command, tmp_path):
    (tmp_path / "mine.py").write_text(REPLAY)
    done = command("replay.selection=mine.easiest", *TINY, "output_dir=run")
    assert (done.code, done.err) == (0, "")
    (cycle,) = cycles(tmp_path / "run")
    assert int(cycle["replay_steps"]) == 2


def test_a_schedule_is_one_class(command, tmp_path):
    (tmp_path / "mine.py").write_text(SCHEDULE)
    own = [setting for setting in TINY if not setting.startswith("schedule.")]
    mine = ("schedule._target_=mine.EveryOther", "schedule.first=2", "trainer.epochs=5")
    done = command(*own, *mine, "output_dir=run")
    assert (done.code, done.err) == (0, "")
    assert [int(cycle["epoch"]) for cycle in cycles(tmp_path / "run")] == [2, 4]
    refused = command(*own, *mine, "schedule.last=3", "output_dir=other")
    assert refused.code == 1
    assert "schedule.last" in refused.err


def test_a_step_is_one_function_in_a_loop_of_ones_own(capsys):
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    refinement = RuntimeRefinement(model, replay=Replay(steps=0))
    exec(STEP, {"refinement": refinement})
    batches = [(torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))]
    report = refinement.refinement_cycle(batches, 0.9)
    assert re.fullmatch(r"\d+ channels are dead\n", capsys.readouterr().out)
    assert list(report.seconds)[-1] == "count_dead"


def test_a_step_is_one_function_in_every_run(tmp_path):
    shutil.copytree(ROOT / "refine", tmp_path / "refine")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    path = tmp_path / "refine" / "cycle.py"
    text = path.read_text(encoding="utf-8")
    function = STEP[STEP.index("def ") : STEP.index("refinement.steps")]
    place = text.index("STEPS: tuple")
    text = (
        text[:place]
        + function
        + text[place:].replace("    recover,", "    count_dead,\n    recover,")
    )
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "refine", "run", *TINY, f"output_dir={tmp_path / 'run'}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "channels are dead" in done.stdout


def cycles(directory):
    with (directory / "cycles.csv").open() as file:
        return list(csv.DictReader(file))
