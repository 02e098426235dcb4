"""A checkpoint that somebody has made up, with a right checksum, ends in a line."""

import hashlib
import io

import pytest
import torch
from conftest import SMALL

from refine import experiment
from refine.cli.compose import composed
from refine.errors import SettingError, TrainingError
from refine.training.checkpoint import MAGIC, read

TINY = (
    *SMALL, "model=logistic", "dataset.subset_size=40", "dataset.image_size=8",
    "trainer.batch_size=20",
)  # fmt: skip
HOSTILE = (None, [], {}, "x", -1, 1e300, 10**30, True, torch.zeros(3), [[1]], {"a": 1})


class Silent:
    def __getattr__(self, name):
        return lambda *arguments: None


def sealed(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def resumed(directory, state):
    """What is said of a run whose checkpoint is ``state``; None if it went on."""
    for name in ("checkpoint.before.pt", "summary.json"):
        (directory / name).unlink(missing_ok=True)
    (directory / "checkpoint.pt").write_bytes(sealed(state))
    config = composed([*TINY, "trainer.epochs=3"])
    try:
        experiment.run(config, Silent(), str(directory), again=True)
    except (SettingError, TrainingError) as error:
        return str(error)
    return None


def places(state, depth):
    """The paths of all entries of nested mappings and lists, to a depth."""
    if depth and isinstance(state, dict | list) and state:
        entries = state.items() if isinstance(state, dict) else list(enumerate(state))[:1]
        for key, value in entries:
            yield (key,)
            for below in places(value, depth - 1):
                yield (key, *below)


def changed(state, place, value):
    if not place:
        return value
    copy = dict(state) if isinstance(state, dict) else list(state)
    copy[place[0]] = changed(state[place[0]], place[1:], value)
    return copy


def check(run, depth, hostile):
    done = run(*TINY)
    state = read(done.directory / "checkpoint.pt")
    wrong = []
    for place in places(state, depth):
        for value in hostile:
            try:
                said = resumed(done.directory, changed(state, place, value))
            except Exception as error:
                wrong.append(f"{place} = {value!r:.20}: {error!r:.120}")
            else:
                assert said is None or (len(said) < 600 and said.count("\n") < 2)
    assert not wrong, "\n".join(wrong)


def test_forged_checkpoints_end_in_a_line(run):
    check(run, 1, (None, [[1]]))


@pytest.mark.long
def test_so_do_all_others(run):
    check(run, 3, HOSTILE)
