"""The schema and the files, typed values, rules, and configurations that older versions saved."""

import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from runs import refused

from refine.cli.compose import composed
from refine.config import (
    GROUPS,
    RunConfig,
    config_directory,
    fingerprint,
    settings,
    typed,
)
from refine.config.instantiate import build, imported
from refine.config.rules import RULES, broken
from refine.config.schedules import settings_of
from refine.errors import FieldError, SettingError
from refine.export.trained import Trained

SAVED = sorted(Path(__file__).parent.glob("*.yaml"))  # by version 0.1.0, of runs of seconds
FREE = ("model", "experiment", "control")  # what differs there, differs from the other groups


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in FREE])
def test_files_hold_only_what_differs_from_the_schema(group):
    schema = OmegaConf.structured(RunConfig)[group]
    for path in sorted((config_directory() / group).glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        defaults = OmegaConf.to_container(schema)
        if group == "schedule":
            own = settings_of(imported("schedule", node["_target_"]))
            defaults = {key: entry.default_factory() for key, entry in own.items()}
        for key, value in node.items():
            assert defaults.get(key, "nothing") != value, (path.name, key)


def test_the_configuration_is_read_once_as_typed_values(monkeypatch):
    monkeypatch.setenv("REFINE_DATA", "pictures")
    config = typed(composed(["schedule=cubic", "trainer=sgd_one_cycle", "+dataset.more=3"]))
    assert isinstance(config, RunConfig)
    assert config.pruner.ratio == 0.15
    assert config.regrowth.controller.seconds == 600.0
    assert config.dataset.root == "pictures"
    assert config.dataset.more == 3
    assert type(config.schedule) is type(config.trainer.optimizer) is dict
    assert config.schedule["target_sparsity"] == 0.9
    assert config.trainer.lr_scheduler["max_lr"] == 0.1


@pytest.mark.parametrize("saved", SAVED, ids=lambda path: path.stem)
def test_a_configuration_of_an_older_version_still_works(saved, command, tmp_path):
    old = yaml.safe_load(saved.read_text(encoding="utf-8"))
    assert len(old["schedule"]) == 13
    shutil.copy(saved, tmp_path / "config.yaml")
    done = command("--config-path", str(tmp_path), "output_dir=run")
    assert (done.code, done.err) == (0, "")
    now = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert now["schedule"].items() <= old["schedule"].items()
    left = {key: value for key, value in now.items() if key not in ("schedule", "output_dir")}
    assert left.pop("start_from_head") == "keep"  # these two are newer than that version
    assert left.pop("figure_formats") == "png"
    assert left == {key: old[key] for key in left}
    # As if that version had made the run.
    shutil.copy(saved, tmp_path / "run" / "config.yaml")
    done = command("resume=run", "trainer.epochs=4")
    assert (done.code, done.err) == (0, "")
    shutil.copy(saved, tmp_path / "run" / "config.yaml")
    assert Trained(tmp_path / "run").network()


def test_of_an_older_version_what_says_nothing_is_dropped_and_what_does_is_refused(
    command, tmp_path
):
    (saved,) = [path for path in SAVED if "cubic" in path.name]
    old = OmegaConf.load(saved)
    old.schedule.tolerance = 0.5
    OmegaConf.save(old, tmp_path / "config.yaml")
    done = command("--config-path", str(tmp_path))
    assert done.err.startswith("refine-run: schedule.tolerance: schedule=cubic has no such setting")


def test_a_target_by_its_older_name_makes_the_same_run(command, tmp_path):
    (saved,) = [path for path in SAVED if "muon" in path.name]
    before = OmegaConf.load(saved)
    now = before.copy()
    assert before.trainer.optimizer._target_ == "refine.muon.Muon"
    now.trainer.optimizer._target_ = "refine.training.optim.Muon"
    assert fingerprint(now) == fingerprint(before)
    other = before.copy()
    other.trainer.optimizer._target_ = "torch.optim.SGD"
    assert fingerprint(other) != fingerprint(before)
    shutil.copy(saved, tmp_path / "config.yaml")
    assert command("--config-path", str(tmp_path), "output_dir=run").code == 0
    shutil.copy(saved, tmp_path / "run" / "config.yaml")
    renamed = "trainer.optimizer._target_=refine.training.optim.Muon"
    assert command("resume=run", "trainer.epochs=4", renamed).code == 0
    done = command("resume=run", "trainer.epochs=5", "trainer.optimizer._target_=torch.optim.SGD")
    assert "trainer.optimizer: was refine.training.optim.Muon" in done.err


def test_every_rule_names_a_setting_and_passes_what_is_composed():
    names = {name for name, _ in settings()} | {"schedule.start", "schedule.stop"}
    parts = {name.rpartition(".")[0] for name in names} | {"schedule.target_sparsity"}
    of_nodes = {"model._target_", "trainer.optimizer._target_", "trainer.lr_scheduler._target_"}
    known = names | parts | of_nodes | {"trainer.lr_scheduler.per"}
    assert {rule.setting for rule in RULES} <= known
    assert broken(composed([])) is None


def test_ones_own_importance_falls_under_the_rules(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text(
        "def of_filters(model, batches):\n    return {}\n"
        "of_filters.granularity = 'filter'\n"
        "def of_all(model, batches):\n    return {}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    says = str(refused("my_scores.of_filters", "layerwise", "weight"))
    assert "my_scores.of_filters goes with the granularity filter, not weight" in says
    assert refused("my_scores.of_filters", "layerwise", "filter") is None
    assert refused("my_scores.of_all", "layerwise", "weight") is None


def test_a_field_that_an_object_refuses_is_the_setting_that_is_named(tmp_path, monkeypatch):
    (tmp_path / "my_part.py").write_text(
        "from refine.errors import FieldError\n"
        "def make(width):\n    raise FieldError('width', 'must be even')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError) as error:
        build("part", {"_target_": "my_part.make", "width": 3})
    assert str(error.value) == "part.width: must be even"
    assert isinstance(error.value.__cause__, FieldError)


def test_what_stands_inside_a_node_and_cannot_be_made_is_the_nodes_problem():
    inner = {"_target_": "torch.nn.Linear", "bias": {"_target_": "nowhere.made"}}
    with pytest.raises(SettingError, match=r"^model: cannot be made: Error locating target"):
        build("model", inner)
