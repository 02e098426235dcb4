"""By no road does ``resume`` write over a run that has finished, or over another one."""

import pytest
import yaml
from conftest import SMALL, Quiet, run_in

from refine import experiment
from refine.cli.compose import composed, tried
from refine.errors import SettingError
from refine.study.cli import main as study
from refine.training import resume

TINY = (*SMALL, "model=logistic", "dataset.image_size=8", "dataset.subset_size=40")


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A finished run, and what is in it."""
    directory = tmp_path_factory.mktemp("victim") / "run"
    run_in(directory, *TINY, "checkpoint.keep=true")
    return directory


@pytest.fixture(autouse=True)
def untouched(victim):
    """Whatever a test does, the finished run stays as it is."""
    before = {path: path.read_bytes() for path in victim.iterdir()}
    yield
    assert {path: path.read_bytes() for path in victim.iterdir()} == before


def own_file(victim, home, **changes):
    """A config.yaml of somebody's own that resumes the finished run."""
    text = (victim / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text) | {"resume": str(victim)} | changes
    (home / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def test_a_configuration_with_resume_in_it(victim, command, tmp_path):
    own_file(victim, tmp_path)
    done = command("--config-path", str(tmp_path))
    assert done.code == 1
    assert f"resume: {victim} has finished its 2 epochs; trainer.epochs=3 would" in done.err
    own_file(victim, tmp_path, seed=7)
    done = command("--config-path", str(tmp_path), "trainer.epochs=3")
    assert "seed: was 42 in" in done.err
    assert "when a run is resumed only these can change" in done.err
    done = command("-m", "--config-path", str(tmp_path), "seed=1,2", "output_dir=s")
    assert done.err == (
        "refine-run: resume: resumes one run; a sweep resumes when it is started again\n"
    )
    assert not (tmp_path / "s").exists()


def test_an_experiment_with_resume_in_it(victim, command, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\nresume: '{victim}'\n", encoding="utf-8"
    )
    done = command("--config-dir", str(tmp_path), "experiment=mine", *TINY)
    assert (done.code, "resume: " in done.err, "has finished" in done.err) == (1, True, True)


def test_a_studys_override(victim, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = study(
        ["--directory", "study", *TINY, "dataset.validation_size=10", f"resume={victim}",
         "pruner.ratio=interval(0.1,0.6)"]
    )  # fmt: skip
    assert code == 1
    says = "resume: each trial is a run of its own; the same command continues a study"
    assert capsys.readouterr().err == f"refine-study: {says}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"seed": 7}, {}, {"resume": "~nobody-here/x"}])
def test_a_call_in_python(victim, changes, tmp_path):
    config, _ = tried([*TINY])
    config.resume = str(victim)
    config.merge_with(changes)
    with pytest.raises(SettingError, match=r"^(seed: was 42|resume: )"):
        experiment.run(config, Quiet())
    with pytest.raises(SettingError, match="this run is made in"):
        experiment.run(config, Quiet(), str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_another_directory_beside_it_is_refused(victim, command):
    done = command(f"resume={victim}", "trainer.epochs=3", "output_dir=elsewhere")
    assert done.err.startswith("refine-run: output_dir: has no effect with resume=")


def test_without_resume_the_run_is_made_where_it_is_told():
    config = composed(["output_dir=there"])
    assert resume.place_of(config, None) == "there"
    assert resume.place_of(config, "here") == "here"
