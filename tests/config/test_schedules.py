"""What the ``schedule`` node takes: of the chosen schedule, and of a user's own."""

import pytest
from conftest import SMALL
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refine.cli.compose import composed, explain
from refine.cli.help import help_text
from refine.config import settle, validate
from refine.config.schedules import HELD_BY_ALL, TARGET, chosen, having, options, settings_of
from refine.errors import SettingError

OWN = '''
from dataclasses import dataclass
from typing import ClassVar

from refine.schedule import Cyclic, Periodic
from refine.setting import setting


@dataclass(frozen=True, kw_only=True)
class Careful(Periodic):
    """Looks at validation accuracy, and cuts less in the end."""

    needs_validation: ClassVar[bool] = True
    patience: int = setting("cycles without a gain", at_least=1, default=3)
    names: tuple = ()


class Wave(Cyclic):
    """Another one that grows."""


class Plain:
    """Of nobody's family: by and due are all there is."""

    by, grows = "step", False

    def __init__(self, ratio, every, first=2):
        self.ratio, self.every, self.first = ratio, every, first

    def due(self, at, surviving):
        return self.ratio if at >= self.first and at % self.every == 0 else None


class Anything(Plain):
    def __init__(self, ratio, **settings):
        super().__init__(ratio, settings["every"])
'''


def refused(*overrides):
    """What is said of these overrides."""
    with pytest.raises((SettingError, OmegaConfBaseException)) as error:
        validate(composed(list(overrides)))
    return explain(error.value)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_schedules.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_schedules"


@pytest.mark.parametrize("option", options())
def test_what_a_schedule_does_not_have_is_refused_by_name(option):
    plain = composed([f"schedule={option}"])
    own = settings_of(chosen(plain))
    for key in HELD_BY_ALL.keys() - own.keys():
        # Also what it would be anyway, and what an older file may hold.
        for value in (1, None, "epoch", 5):
            config = plain.copy()
            config.schedule[key] = value
            with pytest.raises(SettingError) as error:
                settle(config, {"schedule", f"schedule.{key}"})
            says = explain(error.value)
            assert says.startswith(f"schedule.{key}: schedule={option} has no such setting; it has")
            assert says.count("\n") == 0
            for name in own:
                assert name in says
            for other in having(key):
                assert other in says.partition(";")[2]


def test_it_is_refused_when_it_is_typed():
    says = refused("schedule=cubic", "schedule.period=5")
    assert says.startswith("schedule.period: schedule=cubic has no such setting; it has")


def test_a_name_that_no_schedule_has_is_refused_with_the_nearest():
    assert "did you mean interval?" in refused("schedule.intervall=3")
    assert "did you mean interval?" in refused("+schedule.intervall=3")
    assert refused("schedule=never", "schedule.x=3").endswith("; it has none")


@pytest.mark.parametrize("option", options())
def test_every_setting_can_be_set_and_all_are_in_the_configuration(option):
    config = composed([f"schedule={option}"])
    assert list(config.schedule) == [TARGET, *settings_of(chosen(config))]
    for key in settings_of(chosen(config)):
        value = OmegaConf.to_container(config.schedule)[key]
        text = "null" if value is None else str(value).replace(" ", "")
        assert composed([f"schedule={option}", f"schedule.{key}={text}"]) == config


def test_what_a_run_saves_names_every_setting(run):
    done = run(*SMALL, "trainer.epochs=1", "model=logistic", "schedule.start=1")
    saved = OmegaConf.load(done.directory / "config.yaml").schedule
    assert saved == {
        TARGET: "refine.schedule.Periodic", "by": "epoch", "start": 1, "stop": None,
        "interval": 1, "of": "survivors",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("schedule.interval=2.5", "schedule.interval: must be a whole number, not '2.5'"),
        ("schedule.interval=0", "schedule.interval: must be at least 1, not 0"),
        ("schedule.interval=null", "schedule.interval: cannot be null"),
        ("schedule.by=week", "schedule.by: there is no 'week'; known: epoch, step"),
        ("schedule.of=none", "schedule.of: there is no 'none'"),
        ("schedule=cubic schedule.target_sparsity=1", "must be above 0 and below 1, not 1"),
        (
            "schedule=cubic schedule.target_sparsity=null",
            "schedule.target_sparsity: cannot be null",
        ),
        ("schedule=cubic schedule.target_sparsity=much", "must be a number, not 'much'"),
        ("schedule=cubic ~schedule.target_sparsity", "schedule.target_sparsity: is not set (share"),
        ("schedule=cyclic schedule.period=1", "schedule.period: must be at least 2, not 1"),
        ("schedule=adaptive schedule.tolerance=1", "schedule.tolerance: must be at least 0 and"),
        ("schedule=list schedule.at=[a]", "schedule.at[0]: must be a whole number, not 'a'"),
        ("schedule._target_=nowhere.Periodic", "schedule._target_: cannot import 'nowhere"),
        ("~schedule", "schedule._target_: is not set"),
        ("schedule.stop=${trainer.epochs} trainer.epochs=5 schedule.start=6", "at most 5"),
    ],
)
def test_types_and_ranges_are_those_of_its_fields(overrides, says):
    assert says in refused(*overrides.split())


def test_another_schedule_drops_what_an_experiment_says_for_its_own():
    once = composed(["experiment=paper", "control=one_shot"]).schedule
    assert once == {
        TARGET: "refine.schedule.OneShot", "by": "epoch", "start": None, "stop": None,
        "of": "survivors", "cycles_at_once": 3, "target_sparsity": None,
    }  # fmt: skip
    frontier = composed(["experiment=frontier", "control=one_shot"]).schedule
    assert (frontier.target_sparsity, frontier.stop) == (0.9, 12)
    assert composed(["experiment=paper", "schedule=never"]).schedule == {
        TARGET: "refine.schedule.Never"
    }
    for given in ("schedule.interval=5", "schedule.interval=3"):  # but not what a person asks for
        assert "schedule.interval: schedule=one_shot has no such" in refused(
            "experiment=paper", "control=one_shot", given
        )


def test_a_files_setting_of_another_schedule_is_refused_too():
    config = OmegaConf.create({"schedule": {TARGET: "refine.schedule.Periodic", "period": 3}})
    with pytest.raises(SettingError, match="schedule=periodic has no such setting"):
        settle(config)
    settle(config, {"schedule"})
    assert "period" not in config.schedule


def test_values_are_checked_without_a_composition_too():
    config = composed([])
    config.schedule = {TARGET: "refine.schedule.Periodic", "interval": 0}
    with pytest.raises(SettingError, match=r"schedule\.interval: must be at least 1"):
        validate(config)
    config.schedule = {TARGET: "refine.schedule.Periodic", "period": 5}
    with pytest.raises(SettingError, match=r"schedule\.period: schedule=periodic has no such"):
        validate(config)


def test_ones_own_subclass_falls_under_the_rules(mine):
    careful = f"schedule._target_={mine}.Careful"
    assert "dataset.validation_size: schedule=mine_schedules.Careful uses" in refused(careful)
    with_data = (careful, "dataset.validation_size=40")
    validate(composed([*with_data, "schedule.patience=2"]))
    assert composed([*with_data]).schedule.patience == 3
    assert "schedule.patience: must be at least 1" in refused(*with_data, "schedule.patience=0")
    assert "schedule.patience: must be a whole" in refused(*with_data, "schedule.patience=x")
    assert "has no such setting" in refused(*with_data, "schedule.tolerance=0.1")
    says = refused(*with_data, "regrowth=random", "regrowth.initial=kaiming")
    assert says.startswith("regrowth.initial: must be zero")
    assert "recovery.rewind_weights: would undo" in refused(*with_data, "recovery=weight_rewind")
    wave = (f"schedule._target_={mine}.Wave", "schedule.target_sparsity=0.5")
    assert "schedule: mine_schedules.Wave lets weights grow back" in refused(*wave)
    channels = ("pruner=structured", "pruner.target_speedup=2")
    validate(composed([*with_data, *channels]))  # a subclass of Periodic shares the way
    plain = (f"schedule._target_={mine}.Plain", "schedule.every=1")
    assert "needs schedule=one_shot or periodic, not mine_schedules.Plain" in refused(
        *channels, *plain
    )


def test_ones_own_class_of_no_family_runs(run, mine):
    plain = f"schedule._target_={mine}.Plain"
    small = [entry for entry in SMALL if not entry.startswith("schedule.")]
    assert "schedule.every: is not set" in refused(plain)
    assert "did you mean every? Known: every, first" in refused(plain, "schedule.evry=1")
    done = run(*small, "model=logistic", plain, "schedule.every=3")
    assert [row.step for row in done.display.rows if hasattr(row, "cycle")] == [3, 6]
    open_ended = composed([f"schedule._target_={mine}.Anything", "schedule.every=3"])
    assert open_ended.schedule.every == 3
    validate(open_ended)


def test_help_lists_the_settings_of_every_schedule():
    text = help_text(composed([]))
    for option, node in options().items():
        own = settings_of(chosen(OmegaConf.create({"schedule": node})))
        start = text.index(f"  schedule={option} ", text.index("Settings of each schedule"))
        shown = " ".join(text[start : start + 300].split("\n  schedule")[0].split())
        for key, entry in own.items():
            assert f" {key}=" in shown
            assert f"  schedule.{key} " in text
            assert entry.metadata["meaning"] in " ".join(text.split())
    assert "schedule=never          none" in text
