"""What is there stays there: files that others touch, runs that are stopped at once, other data."""

import os
import signal
import stat

import pytest
import torch
from conftest import SMALL
from runs import digits_folder
from safetensors.torch import load_file, save_file

from refine import experiment
from refine.datasets import image_folder
from refine.errors import SettingError, Stop
from refine.records.files import written_whole
from refine.training.step import Stepper

TINY = (
    *SMALL[1:], "model=logistic", "dataset.subset_size=40", "dataset.image_size=8",
    "trainer.batch_size=20",
)  # fmt: skip
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and signals")


@posix
def test_files_have_the_permissions_of_any_new_file(run, tmp_path):
    before = os.umask(0o027)
    try:
        done = run(*TINY, "save_model=true")
        home = digits_folder(tmp_path / "digits")
        image_folder(str(home), 16)
    finally:
        os.umask(before)
    files = [*done.directory.iterdir(), home / "refine-cache-16.safetensors"]
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o640, path
    with written_whole(tmp_path / "private") as part:
        part.unlink()
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600))
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o666 & ~before


@pytest.mark.parametrize("harm", ["removed", "emptied"])
def test_a_table_that_is_harmed_during_the_run_is_written_anew(run, undisturbed, harm, caplog):
    whole = undisturbed(*TINY, "save_model=true").directory

    class Harmful:
        rows = ()

        def __getattr__(self, name):
            return lambda *arguments: None

        def show(self, row):
            from refine.records.rows import CycleRow

            table = run_directory / "metrics.csv"
            if isinstance(row, CycleRow):
                table.unlink() if harm == "removed" else table.write_text("")

    run_directory = whole.parent.parent / f"harmed-{harm}"
    done = run(*TINY, "save_model=true", name=run_directory, display=Harmful())
    assert (done.directory / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()
    assert done.summary["status"] == "finished"
    rows = (done.directory / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert "written anew" in caplog.text


def test_a_figure_that_cannot_be_drawn_costs_nothing_else(run, monkeypatch, caplog):
    def failing(directory):
        raise KeyError("train_loss")

    monkeypatch.setattr(experiment, "draw_run", failing)
    done = run(*TINY, "save_model=true")
    assert done.summary["status"] == "finished"
    assert (done.directory / "model.safetensors").is_file()
    assert "the figure cannot be drawn" in caplog.text


def test_a_directory_that_was_only_begun_can_be_used(run, tmp_path):
    begun = tmp_path / "run"
    begun.mkdir()
    for name in (".lock", "run.log", ".config.yaml.123.part"):
        (begun / name).write_text("")
    assert run(*TINY).summary["status"] == "finished"
    with pytest.raises(SettingError, match="exists and is not empty"):
        run(*TINY)


@posix
def test_ctrl_c_in_the_first_epoch_leaves_what_can_be_resumed(
    run, undisturbed, tmp_path, monkeypatch
):
    whole = undisturbed(*TINY, "save_model=true").directory
    step, steps = Stepper.__call__, []

    def stopping(self, *batch):
        steps.append(1)
        if len(steps) == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", stopping)
        with pytest.raises(Stop, match="interrupted"):
            run(*TINY, "save_model=true")
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    from refine.cli.compose import composed

    config = composed([f"resume={tmp_path / 'run'}"], str(tmp_path / "run"))
    experiment.run(config, type("Quiet", (), {"__getattr__": lambda s, n: lambda *a: None})())
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()


def test_a_resumed_run_notices_other_data(run, tmp_path):
    home = digits_folder(tmp_path / "digits")
    settings = (
        *TINY[:-3], "dataset=image_folder", f"dataset.root={home}", "dataset.image_size=8",
        "trainer.batch_size=20", "dataset.test_size=0", "checkpoint.keep=true",
    )  # fmt: skip
    done = run(*settings)
    first, second = sorted((home / "train").iterdir())[:2]
    moved = next(first.iterdir())
    moved.rename(second / f"moved-{moved.name}")
    again = (*settings, "trainer.epochs=3")
    from refine.cli.compose import composed

    config = composed([*again])
    quiet = type("Quiet", (), {"__getattr__": lambda s, n: lambda *a: None})()
    before = {p: p.read_bytes() for p in done.directory.iterdir() if p.name != "run.log"}
    with pytest.raises(SettingError, match="resume: the training data are others"):
        experiment.run(config, quiet, str(done.directory), again=True)
    after = {p: p.read_bytes() for p in before}
    changed = [p.name for p in before if before[p] != after[p]]
    assert changed in ([], ["summary.json"])
    (second / f"moved-{moved.name}").rename(moved)
    assert experiment.run(config, quiet, str(done.directory), again=True)["epochs"] == 3


def test_folders_and_files_that_are_no_classes_are_left_alone(tmp_path, caplog):
    home = digits_folder(tmp_path)
    plain = image_folder(str(home), 16)
    for part in ("train", "test"):
        for name in (".ipynb_checkpoints", "__MACOSX", ".hidden"):
            (home / part / name).mkdir()
            (home / part / name / "0.png").write_bytes(b"no picture")
        (home / part / ".DS_Store").write_bytes(b"\x00")
        (home / part / "0" / "._0.png").write_bytes(b"no picture")
        (home / part / "0" / "Thumbs.db").write_bytes(b"\x00")
    (home / "refine-cache-16.safetensors").unlink()
    again = image_folder(str(home), 16)
    assert again.classes == plain.classes == [str(number) for number in range(10)]
    assert again.train.pixels.equal(plain.train.pixels)
    (home / "train" / "0" / "moving.gif").write_bytes(b"GIF")
    image_folder(str(home), 16)
    assert "1 files are no pictures and left out" in caplog.text
    link = home / "train" / "0" / "link.png"
    link.symlink_to("/nowhere")
    with pytest.raises(SettingError, match=r"link\.png cannot be read \(No such file"):
        image_folder(str(home), 16)
    link.unlink()
    (home / "train" / "roses").mkdir()
    with pytest.raises(SettingError, match=r"no images in .*roses; fill or remove it"):
        image_folder(str(home), 16)


def test_a_cache_that_does_not_hold_these_pictures_is_made_anew(tmp_path, caplog):
    home = digits_folder(tmp_path)
    plain = image_folder(str(home), 16)
    cache = home / "refine-cache-16.safetensors"
    from safetensors import safe_open

    with safe_open(cache, framework="pt") as file:
        about = file.metadata()
    good = load_file(cache)
    for part, wrong in (
        ("train", torch.cat([good["train"], good["train"]])),
        ("test", good["test"].float()),
        ("test", good["test"][..., 0].contiguous()),
    ):
        save_file(good | {part: wrong}, cache, metadata=about)
        again = image_folder(str(home), 16)
        assert len(again.train.pixels) == len(again.train.labels)
        assert again.test.pixels.equal(plain.test.pixels)
        assert "is not made of" in caplog.text
        caplog.clear()
