"""Paths and values as people type them, and values that nothing can be made of."""

import functools
import os

import pytest
from omegaconf import OmegaConf

from refine.cli import compose as composing
from refine.cli.compose import EXPLAINED, composed, explain
from refine.cli.overrides import TEXT, parsed, readable
from refine.config import GROUPS, RunConfig, settings, typed, validate
from refine.errors import SettingError
from refine.process import working_directory
from refine.study import cli as study

PATHS = [
    "~/flowers", "ünï-日本", "two words", "a=b", "a#b", "it's", "a;b", "a(b)", "(a)", "a,b", "3",
    "1_000", "2026_11", "007", "1e3", "true", "nan", "[a]", "{a}", "a&b", "a<b", 'a"b', "a\\", "=3",
    "a!b", "${seed", "C:\\data", "--x", "a`b", "x:y",
]  # fmt: skip


def read(typed, several=False):
    """What ``output_dir`` is then."""
    with composing.initialize_config_dir(str(composing.config_directory()), version_base="1.3"):
        return composing.compose("config", readable([f"output_dir={typed}"], several)).output_dir


@pytest.mark.parametrize("path", [path for path in PATHS if "${" not in path])
def test_a_path_is_what_was_typed(path):
    assert read(path) == path


def test_what_is_in_quotes_or_has_a_meaning_keeps_it():
    assert read("'a b'") == "a b"
    assert read('"it\'s"') == "it's"
    assert read("'it's'") == "it's"
    assert read("null") is None
    assert read("run-${seed}") == "run-42"
    assert read("ü-${seed}") == "ü-42"


def test_in_a_sweep_commas_part_values():
    assert readable(["start_from=ü/a,b c,007_1,1_0"], True) == ["start_from='ü/a',b c,007_1,'1_0'"]
    assert readable(["start_from=a,b"], True) == ["start_from=a,b"]
    assert readable(["start_from='a,b'"], True) == ["start_from='a,b'"]
    assert readable(["start_from=choice(a,b)"], True) == ["start_from=choice(a,b)"]
    assert readable(["+model.weights=~/x.pt"], False) == ["+model.weights='~/x.pt'"]


def test_every_path_of_the_schema_is_known_as_text():
    assert {"output_dir", "resume", "start_from", "dataset.root", "regrowth.source",
                    "distillation.source", "tracker.uri"} <= TEXT  # fmt: skip


def test_a_run_in_a_directory_of_any_name(command, folder_of_digits, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "blümen, (rote); #1 'a'=b").symlink_to(folder_of_digits)
    done = command(
        "dataset=image_folder", "dataset.root=~/blümen, (rote); #1 'a'=b", "model=logistic",
        "output_dir=ünï-日本 #1=2;", "trainer.epochs=1", "dataset.subset_size=20", "device=cpu",
        "dataset.image_size=8", "replay=none", "save_model=false", "schedule=never",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "ünï-日本 #1=2;" / "summary.json").exists()
    assert "has finished its 1 epochs" in command("resume=ünï-日本 #1=2;").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["schedule=list", "schedule.at=[1]", "schedule.sparsities=[nan]"],
            "schedule.sparsities: must be at least 0 and below 1, not nan",
        ),
        (["pruner.layers={1: 0.3}"], "pruner.layers: no prunable layer matches '1'"),
        (["pruner.layers={fc1: nan}"], "pruner.layers: gives globs shares"),
        (["device=cuda:99999999999999999999"], "device: 'cuda:99999999999999999999' is none of"),
        (["device=cuda:99999"], "device: cuda:99999 was asked for and this machine has"),
        (
            ["pruner=structured", "pruner.target_speedup=1e30"],
            "pruner.target_speedup: must be at most",
        ),
        (["start_from=~nobody-here/x"], "start_from: ~nobody-here/x: there is no home of that"),
        (["start_from=" + "a" * 5000], "start_from: cannot read aaaa"),
        (["resume=" + "a" * 300], "resume: cannot read aaaa"),
        (["output_dir=\udcff"], "output_dir: '\\udcff' is no UTF-8 text; rename what it names"),
        (["trainer.epochs=999999999999"], "trainer.epochs: must be at least 1 and at most 1e+06"),
        (["regularizer=l1", "regularizer.strength=1e308"], "regularizer.strength: must be at"),
        (["resume=~nobody-here/x"], "resume: ~nobody-here/x: there is no home of that user"),
        (["-m", "seed=1,2", "output_dir=~nobody-here/x"], "output_dir: ~nobody-here/x: there is"),
        (["--config-path", "~nobody-here/x"], "--config-path: ~nobody-here/x: there is no home"),
        (["=3"], "refine: '=3' is no override; write SETTING=VALUE"),
        (["nonsense"], "nonsense: is no override; write SETTING=VALUE"),
        (["resume=3"], "resume: 3 does not exist: there is no config.yaml"),
        (["resume="], "resume: is empty; name the directory of a run"),
        (["-m", "resume=a,b"], "resume: takes one value"),
        (["seed=~x"], "seed: cannot read seed=~x; put text with special characters in quotes"),
        (["pruner.ratio=(0.1)"], "pruner.ratio: cannot read pruner.ratio=(0.1); put text with"),
        (["pruner.layers=" + "[" * 3000], "pruner.layers: cannot read pruner.layers=[[[["),
        (["seed=" + "9" * 5000], "seed: cannot read seed=999"),
        (["pruner.ratio=${oc.env:NOPE}"], "pruner.ratio: the environment variable NOPE is not set"),
        (["pruner.ratio=${pruner.ratio}"], "pruner.ratio: refers to itself"),
        (["pruner.ratio=${a.b}"], "pruner.ratio: there is no setting a.b for ${a.b}"),
        (["pruner=${seed}"], "pruner: there is no '${seed}'; known: magnitude"),
        (["pruner=[1]"], "pruner: there is no '1'; known: magnitude"),
        (["experiment=5"], "experiment: there is no '5'; known: ablation"),
        (
            ["-m", "seed=range(0,1000000000)"],
            "refine-run -m: makes 1,000,000,000 runs; 10,000 are the most, so give fewer values",
        ),
        (["-m", "seed=range(0,200)", "pruner.ratio=range(0.1,0.2,0.001)"], "makes 20,000 runs"),
        (["-m", "seed=range(0,9,0)"], "seed: "),
    ],
    ids=lambda value: value[-1][:40] if isinstance(value, list) else "",
)
def test_a_value_that_nothing_can_be_made_of_is_one_line(command, arguments, says, tmp_path):
    done = command(*arguments)
    assert done.code == 1
    assert says in done.err
    assert 1 <= len(done.err.strip().splitlines()) <= 2
    assert len(done.err) < 500
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_working_directory_is_one_line(command, capsys, monkeypatch):
    line = "the working directory: does not exist any more; change to one that does"
    done = []
    from refine.bench.cli import main as bench
    from refine.cli.restore import main as restore
    from refine.export.cli import main as export

    monkeypatch.setattr(os, "getcwd", functools.partial(_no_directory))
    with pytest.raises(SettingError, match=line):
        working_directory()
    for main in (export, restore, study.main, bench):
        done.append(main(["run"]))
        assert capsys.readouterr().err.endswith(f": {line}\n")
    assert command("seed=1").err == f"refine-run: {line}\n"
    assert done == [1, 1, 1, 1]


def _no_directory():
    raise FileNotFoundError(2, "No such file or directory")


HOSTILE = ["nan", "", "null", "[]", "x" * 5000, "${oc.env:NOPE}"]
MORE = [
    "inf", "1e308", "-0.0", "' '", "{}", "[nan]", "{a: 1}", "9" * 40, "ünï-日本", "${seed}",
    "${nope.nope}", "true", "-1", "a b", "%s", "???", "{c: {d: e}}", "1.5",
]  # fmt: skip
WORDS = ("token", "viable", "mismatched", "expecting", "object of type", "full_key", "Traceback")


@functools.cache
def base():
    return composed(["schedule=list", "schedule.at=[1]", "schedule.sparsities=[0.5]"])


@pytest.mark.parametrize(
    "value",
    [*HOSTILE, *(pytest.param(value, marks=pytest.mark.long) for value in MORE)],
    ids=lambda value: value[:20] or "empty",
)
def test_every_setting_takes_any_value_or_says_in_a_line_what_is_wrong(value):
    """As a composition does, but with one composed configuration for all."""
    schema = OmegaConf.structured(RunConfig)
    found = parsed(f"x={value}")
    given = value if found is None or isinstance(found.value(), str) else found.value()
    for name, _ in settings():
        if name in GROUPS:
            continue
        try:
            node = OmegaConf.merge(schema, base())
            OmegaConf.update(node, name, given, merge=False)
            OmegaConf.to_container(node, resolve=True)
            validate(node)
            typed(node)
        except EXPLAINED as error:
            says = explain(error)
            assert len(says.strip().splitlines()) <= 2, says
            assert len(says) < 900, says
            assert says.startswith((name, name.rpartition(".")[0])), says
            assert not any(word in says for word in WORDS), says
