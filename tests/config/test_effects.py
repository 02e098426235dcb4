"""A setting that a person gives and that has no effect is refused by name."""

import functools

import pytest
from omegaconf import OmegaConf

from refine.cli.compose import composed
from refine.config import settings
from refine.config.effects import EFFECTS
from refine.config.in_vain import left_open, reset_, without_effect
from refine.records.directory import RERUN_HEADER

compose = functools.cache(lambda *overrides: composed(list(overrides)))
NAMES = [name for name, _ in settings()]


def below(*nodes):
    return {name for name in NAMES if name.startswith(tuple(f"{node}." for node in nodes))}


PLAIN = (
    {"pruner.n", "pruner.m", "pruner.steps", "pruner.initial_allocation", "pruner.scoring_batches"}
    | {"pruner.target_speedup", "pruner.target_macs", "pruner.target_parameters"}
    | {"pruner.round_to", "pruner.min_channels"}
    | below("regrowth") - {"regrowth.score"}
    | {"replay.alpha", "replay.beta"}
    | below("replay.vae")
    | below("distillation") - {"distillation.teacher"}
    | below("regularizer") - {"regularizer.kind"}
    | below("recovery") - {"recovery.curve", "recovery.rewind_weights"}
    | {"tracker.project", "tracker.uri", "tracker.mode", "dataset.tasks", "sweep.dry_run"}
    | {"dataset.root", "start_from_head"}
)


def idle(*overrides):
    return set(without_effect(compose(*overrides), NAMES))


def test_in_the_default_run_exactly_these_have_none():
    assert idle() == PLAIN


@pytest.mark.parametrize(
    ("overrides", "more", "fewer"),
    [
        ("pruner.granularity=n_m", {"pruner.ratio"}, {"pruner.n", "pruner.m"}),
        ("pruner.importance=taylor", {}, {"pruner.scoring_batches"}),
        ("pruner.importance=my.own", {}, {"pruner.scoring_batches"}),
        ("pruner.initial_sparsity=0.5", {}, {"pruner.initial_allocation"}),
        (
            "pruner=none",
            {
                "pruner.ratio",
                "pruner.allocation",
                "pruner.granularity",
                "pruner.min_layer_density",
            },
            {},
        ),
        ("schedule=cubic", {"pruner.ratio"}, {}),
        ("schedule=one_shot schedule.target_sparsity=0.5", {"pruner.ratio"}, {}),
        ("schedule=geometric", {}, {}),
        ("schedule=never", {"pruner.ratio", "regrowth.score", "distillation.teacher"}
         | below("replay"), {}),
        ("replay=prioritized", {}, {"replay.alpha", "replay.beta"}),
        ("replay=none", below("replay") - {"replay.steps"}, {}),
        ("replay=generative replay.selection=uniform", {"replay.buffer_size"}, below("replay.vae")),
        ("tracker=wandb", {}, {"tracker.project", "tracker.mode"}),
        ("tracker=mlflow", {}, {"tracker.project", "tracker.uri"}),
        ("tracker._target_=my.own", {}, {"tracker.project", "tracker.mode", "tracker.uri"}),
        ("recovery=slr", {}, {"recovery.max_lr", "recovery.min_lr", "recovery.epochs",
                              "recovery.original_epochs"}),
        ("recovery=one_cycle", {}, {"recovery.max_lr", "recovery.cycle_momentum",
                                    "recovery.epochs", "recovery.original_epochs"}),
        ("recovery=weight_rewind", {}, {"recovery.rewind_to", "recovery.epochs",
                                        "recovery.original_epochs"}),
        ("recovery.curve=my.own", {}, {"recovery.max_lr", "recovery.min_lr", "recovery.epochs",
                                       "recovery.cycle_momentum", "recovery.original_epochs"}),
        ("regularizer=l1", {}, below("regularizer") - {"regularizer.growth"}),
        ("regularizer=growing_reg", {}, below("regularizer")),
        ("distillation=self", {}, {"distillation.match", "distillation.during",
                                   "distillation.temperature", "distillation.weight"}),
        ("distillation=ema distillation.match=features", {},
         {"distillation.match", "distillation.during", "distillation.decay",
          "distillation.weight"}),
        ("regrowth=random", {}, {"regrowth.allocation", "regrowth.budget", "regrowth.initial",
                                 "regrowth.target_sparsity", "regrowth.only_epochs"}),
        ("regrowth=gradient regrowth.allocation=controller dataset.validation_size=9", {},
         below("regrowth") - {"regrowth.source"} | {"pruner.scoring_batches"}),
        ("dataset=split", {}, {"dataset.tasks"}),
        ("dataset=image_folder", {}, {"dataset.root"}),
        ("checkpoint.every=0", {"checkpoint.keep"}, {}),
        (
            "pruner=structured",
            {},
            {"pruner.steps", "pruner.target_speedup", "pruner.target_macs", "pruner.round_to",
             "pruner.target_parameters", "pruner.min_channels"},
        ),
    ],
)  # fmt: skip
def test_another_choice_gives_some_an_effect_and_takes_it_from_others(overrides, more, fewer):
    assert idle(*overrides.split()) == (PLAIN | set(more)) - set(fewer)


def test_every_line_names_a_remedy_and_every_name_is_a_setting():
    for effect in EFFECTS:
        for name in effect.names:
            known = {*NAMES, "schedule.of", "schedule.cycles_at_once"}
            assert any(f"{each}.".startswith(f"{name}.") for each in known), name
    for error in without_effect(compose(), NAMES).values():
        says = str(error)
        assert "\n" not in says
        assert any(word in says for word in ("choose", "set", "leave", "refine-run -m", "needs",
                                             "used only by")), says  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            "recovery.max_lr=0.1",
            "recovery.max_lr: has no effect with recovery=none; choose recovery=slr, "
            "recovery=clr, recovery=one_cycle, recovery=fine_tune, or leave it out",
        ),
        (
            "replay.vae.hidden=256",  # which is the default
            "replay.vae.hidden: has no effect with replay.storage=highest; choose "
            "replay=generative, or leave it out",
        ),
        (
            "distillation.source=/nonexist",
            "distillation.source: has no effect without a teacher; choose distillation=self, ema "
            "or dense, or leave it out",
        ),
        (
            "pruner.n=1",
            "pruner.n: has no effect with pruner.granularity=weight; set pruner.granularity=n_m, "
            "or leave it out",
        ),
        (
            "schedule=cubic pruner.ratio=0.3",
            "pruner.ratio: has no effect with schedule=cubic, which decides how much a cycle cuts; "
            "leave one of them out",
        ),
        (
            "schedule.target_sparsity=0.5",
            "schedule.target_sparsity: schedule=periodic has no such setting",
        ),
        ("+checkpoint.foo=1", "checkpoint.foo: there is no such setting; known: every, keep"),
        ("+sweep.foo=1", "sweep.foo: there is no such setting; known: dry_run"),
        (
            "sweep.dry_run=true",
            "sweep.dry_run: has no effect on a single run; refine-run -m makes a sweep",
        ),
        ("output_dir=", "output_dir: is empty; give it a value, or leave it out"),
        ("-m seed=1,2 output_dir=", "output_dir: is empty; name a directory, or leave it out"),
        ("start_from=", "start_from: is empty"),
        ("-m pruner.n=1,2", "pruner.n: has no effect with pruner.granularity=weight"),
        (
            "-m schedule.target_sparsity=0.5,0.9",
            "schedule.target_sparsity: schedule=periodic has no such setting",
        ),
    ],
)
def test_the_command_refuses_it_and_leaves_nothing(command, overrides, says, tmp_path):
    done = command(*overrides.split())
    assert done.code == 1
    assert done.err.startswith(f"refine-run: {says}")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_preset_brings_along_is_no_ones_mistake(command):
    never = compose("experiment=frontier", "schedule=never", "trainer.epochs=8")
    assert "stop" not in never.schedule
    assert compose("experiment=sparse_training_small", "pruner=magnitude").pruner.ratio == 0.15
    weights = ("pruner=magnitude", "pruner.criterion=none", "pruner.importance=magnitude")
    done = command("experiment=sparse_training_small", *weights, "pruner.steps=5")
    assert done.err.startswith("refine-run: pruner.steps: has no effect")


def test_a_control_is_compared_by_the_same_command():
    assert compose("pruner.ratio=0.3", "control=dense").pruner.importance == "none"
    assert compose("pruner=structured", "pruner.target_speedup=2", "control=dense")


def test_what_a_preset_leaves_open_for_nothing_is_filled_in():
    config = compose("experiment=regrowth_vgg16", "regrowth=none", "schedule=one_shot")
    assert config.regrowth.source is None
    assert left_open(compose("experiment=regrowth_vgg16")) == []


def test_a_file_of_ones_own_counts_and_a_runs_does_not(command, run, tmp_path):
    (tmp_path / "config.yaml").write_text(
        RERUN_HEADER + "recovery: {max_lr: 0.1}\nschedule: {_target_: refine.schedule.Never}\n"
    )
    done = command("--config-path", str(tmp_path))
    assert done.err.startswith("refine-run: recovery.max_lr: has no effect with recovery=none")
    saved = OmegaConf.merge(compose(), {"recovery": {"max_lr": 0.1}})
    (tmp_path / "config.yaml").write_text(RERUN_HEADER + OmegaConf.to_yaml(saved))
    done = command("--config-path", str(tmp_path), "--cfg", "job")
    assert (done.code, done.err) == (0, "")


def test_a_setting_in_vain_gets_its_default():
    config = compose("schedule=one_shot", "pruner.ratio=0.3").copy()
    config.schedule.cycles_at_once = 4
    reset_(config, ["pruner.ratio", "schedule.cycles_at_once", "replay.vae"])
    assert (config.pruner.ratio, config.schedule.cycles_at_once) == (0.15, 1)


def test_in_a_sweep_it_is_said_once_and_allowed_where_others_need_it(command, tmp_path):
    done = command("-m", "recovery=none,slr", "recovery.max_lr=0.1,0.2", "sweep.dry_run=true")
    assert (done.code, done.err) == (0, "")
    lines = [line for line in done.out.splitlines() if line.startswith("note: ")]
    assert len(lines) == 2
    assert lines[0].startswith("note: in 2 of 4 combinations, recovery.max_lr: has no effect with")
    assert lines[1].startswith("note: 1 of 4 combinations differ from others only in what has no")
    assert "3 jobs in" in done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_runs_that_would_be_the_same_are_made_once(command, tmp_path):
    done = command(
        "-m", "model=logistic", "dataset.subset_size=40", "dataset.test_size=20", "output_dir=s",
        "trainer.epochs=2", "replay=none", "schedule=periodic,cubic", "save_model=false",
        "schedule.target_sparsity=0.5,0.9", "schedule.interval=1",
    )  # fmt: skip
    assert done.code == 0
    assert "in 2 of 4 combinations, schedule.target_sparsity: schedule=periodic has no" in done.out
    assert len(list((tmp_path / "s").glob("*/summary.json"))) == 3
    assert "schedule.target_sparsity=0.9" in (tmp_path / "s" / "report.csv").read_text()


def test_a_dry_run_of_a_single_run_never_trains(command, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nsweep: {dry_run: true}\n"
    )
    done = command("--config-dir", str(tmp_path), "experiment=mine")
    assert done.err == "refine-run: sweep.dry_run: lists the runs of refine-run -m\n"
    assert [path.name for path in tmp_path.iterdir()] == ["experiment"]
