"""A checkpoint that somebody has made up, with a right checksum, ends in a line."""

import copy
import hashlib
import io

import pytest
import torch
from conftest import SMALL

from refine import experiment
from refine.cli.compose import composed
from refine.errors import SettingError, TrainingError
from refine.report.display import Display
from refine.training.checkpoint import MAGIC, read
from refine.training.optimizer_state import load_

TINY = (
    *SMALL, "model=logistic", "dataset.subset_size=40", "dataset.image_size=8",
    "trainer.batch_size=20",
)  # fmt: skip
HOSTILE = (None, [], {}, "x", -1, 1e300, 10**30, True, torch.zeros(3), [[1]], {"a": 1})


def sealed(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def resumed(config, directory, state):
    """What is said of a run whose checkpoint is ``state``; None if it went on."""
    for name in ("checkpoint.before.pt", "summary.json"):
        (directory / name).unlink(missing_ok=True)
    (directory / "checkpoint.pt").write_bytes(sealed(state))
    try:
        experiment.run(config, Display(), str(directory), again=True)
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


def check(run, depth, hostile, share=1):
    """share: one of so many values is tried at a place, another at the next."""
    done = run(*TINY, "checkpoint.keep=true")
    config = composed([*TINY, "trainer.epochs=3"])
    state = read(done.directory / "checkpoint.pt")
    wrong = []
    for i, place in enumerate(places(state, depth)):
        for value in hostile[i % share :: share]:
            try:
                said = resumed(config, done.directory, changed(state, place, value))
            except Exception as error:
                wrong.append(f"{place} = {value!r:.20}: {error!r:.120}")
            else:
                assert said is None or (len(said) < 600 and said.count("\n") < 2)
    assert not wrong, "\n".join(wrong)


def test_forged_checkpoints_end_in_a_line(run):
    check(run, 1, (None, [[1]]))


def test_values_that_take_for_ever_or_write_where_they_must_not(run):
    done = run(*TINY, "checkpoint.keep=true")
    config = composed([*TINY, "trainer.epochs=3"])
    state = read(done.directory / "checkpoint.pt")
    for place, value, words in (
        (("optimizer", 0, "exp_avg"), torch.zeros(3), "exp_avg is (3,)"),
        (("optimizer", 0, "exp_avg_sq"), "x", "exp_avg_sq is a str"),
        (("optimizer", 0, "step"), torch.zeros(0), "step is (0,)"),
        (("learning_rate", "steps"), 10**30, None),
        (("refinement", "frozen", "epochs"), "x", "refinement.frozen.epochs is 'x'"),
        (("position", "step"), 10**30, "position"),
        (("position", "task"), -1, "position"),
    ):
        said = resumed(config, done.directory, changed(state, place, value))
        assert said is None if words is None else words in said, (place, said)


def test_moments_get_the_layout_of_their_parameters():
    layer = torch.nn.Conv2d(4, 4, 3)
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    layer(torch.ones(1, 4, 5, 5)).sum().backward()
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    moments = state["state"][0]["exp_avg"]
    state["state"][0]["exp_avg"] = moments.to(memory_format=torch.channels_last)
    state["state"][1]["exp_avg"] = torch.zeros(1).expand(4)  # one number in memory
    load_(optimizer, state)
    for parameter in layer.parameters():
        assert optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()
    assert torch.equal(optimizer.state[layer.weight]["exp_avg"], moments)


@pytest.mark.long
def test_so_do_all_others(run):
    check(run, 3, HOSTILE, share=8)
