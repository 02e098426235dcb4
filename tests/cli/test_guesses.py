"""What a mistake is answered with: the override that was meant."""

import subprocess
import sys

import pytest

from refine.bench.cli import main as bench
from refine.cli.restore import main as restore
from refine.export.cli import main as export
from refine.report.cli import main as report
from refine.study.cli import main as study

MEANT = "there is no such setting; did you mean"
TYPED = [
    (["epochs=20"], f"epochs: {MEANT} trainer.epochs=20?"),
    (["lr=0.01"], f"lr: {MEANT} trainer.optimizer.lr=0.01?"),
    (["ratio=0.3"], f"ratio: {MEANT} pruner.ratio=0.3?"),
    (["batch_size=64"], f"batch_size: {MEANT} trainer.batch_size=64?"),
    (["target_sparsity=0.9"], f"{MEANT} schedule=cubic schedule.target_sparsity=0.9?"),
    (["prune_ratio=0.2"], f"{MEANT} pruner.ratio=0.2?"),
    (["trainer.lr=0.01"], f"trainer.lr: {MEANT} trainer.optimizer.lr=0.01?"),
    (["pruner.sparsity=0.9"], f"{MEANT} schedule=cubic schedule.target_sparsity=0.9?"),
    (["epocs=3"], f"{MEANT} trainer.epochs=3?"),
    (["steps=5"], f"{MEANT} pruner.steps=5 or "),
    (["-m", "lr=0.1,0.2"], f"{MEANT} trainer.optimizer.lr=0.1,0.2?"),
    (["foo=3"], "foo: there is no such setting; known: seed"),
    (["dataset=CIFAR10"], "dataset: there is no 'CIFAR10'; did you mean cifar10?"),
    (["dataset=mnist"], "did you mean fashion_mnist?"),
    (["model=ResNet-20"], "did you mean resnet20?"),
    (["pruner.ratio=0.1,", "0.2"], "write pruner.ratio=0.1,0.2 without them"),
    (["-m", "pruner.ratio=0.1", ",0.2"], "write pruner.ratio=0.1,0.2 without them"),
    (["pruner.ratio=", "0.2"], "write pruner.ratio=0.2 without them"),
    (["pruner.layers={fc1:", "0.3}"], "put it in quotes: 'pruner.layers={fc1: 0.3}'"),
    (["pruner"], "pruner: needs a value: write pruner=OPTION; magnitude, none, random"),
    (["experiment", "paper"], "experiment: needs a value: write experiment=paper;"),
    (["paper"], "paper: is no override; write experiment=paper"),
    (["epochs"], "is no override; write SETTING=VALUE, did you mean trainer.epochs=VALUE?"),
    (["trainer.optimizer=sgd"], "holds settings of its own; give trainer=sgd_cosine or trainer="),
    (["pruner.ratio=0,3"], "several values need a sweep, refine-run -m pruner.ratio=0,3, and a "
     "number has a point, pruner.ratio=0.3"),
    (["pruner.ratio=15"], "must be above 0 and below 1, not 15.0; 15 % is 0.15"),
    (["pruner.ratio=15%"], "must be a number, not '15%'; 15 % is 0.15"),
    (["pruner.ratio=1.5e3"], "pruner.ratio: must be above 0 and below 1, not 1500.0\n"),
    (["trainer.epochs=0"], "trainer.epochs: must be at least 1 and at most 1e+06, not 0\n"),
]  # fmt: skip
WORDS = ("<EOF>", "viable", "mismatched", "Lexer", "Traceback", "Cannot assign")


@pytest.mark.parametrize(("typed", "says"), TYPED, ids=lambda value: " ".join(value)[:30])
def test_a_mistake_is_answered_with_what_was_meant(command, typed, says, tmp_path):
    done = command(*typed)
    assert done.code == 1
    assert says in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not any(word in done.err for word in WORDS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--epochs 20 --prune-ratio 0.2", "trainer.epochs=20 pruner.ratio=0.2"),
        ("--epochs=20 seed=3 --dataset cifar10 -m", "trainer.epochs=20 seed=3 dataset=cifar10 -m"),
        ("--resume DIR --output o --lr 0.1", "resume=DIR output_dir=o trainer.optimizer.lr=0.1"),
        ("--foo 3 --epochs 2", "is no option --foo; refine-run --help lists all settings"),
    ],
)  # fmt: skip
def test_options_are_answered_with_settings(command, typed, says):
    done = command(*typed.split())
    assert done.code == 2
    assert done.err.strip().endswith(says)


def test_hydras_flags_are_its_own(command):
    done = command("--cfg", "job", "seed=3")
    assert (done.code, done.err) == (0, "")
    assert "seed: 3" in done.out
    assert command("--cfg=job").code == 0


def test_tab_completion_is_installed_by_the_line_in_the_readme(command):
    done = command("-sc", "install=bash")
    assert (done.code, done.err) == (0, "")
    assert "complete" in done.out


def test_every_command_says_its_version(command, capsys):
    assert command("--version").out.startswith("runtime-refinement ")
    for main in (bench, restore, export, report, study):
        with pytest.raises(SystemExit) as left:
            main(["--version"])
        assert left.value.code == 0
        assert capsys.readouterr().out.startswith("runtime-refinement ")


def test_a_value_out_of_range_is_said_without_torch():
    """What takes seconds to import is not imported for a mistake."""
    code = (
        "import sys\nfrom refine.cli.run import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'torch', 'matplotlib', 'pandas'} & "
        "{*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "pruner.ratio=15"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n"
    assert "15 % is 0.15" in done.stderr


def test_a_run_too_short_for_a_cycle_says_what_makes_one_due(command):
    tiny = ("model=logistic", "dataset.subset_size=40", "dataset.image_size=8", "save_model=false")
    done = command("trainer.epochs=3", *tiny)
    line = "no cycle is due in 3 epochs, so nothing is cut; schedule.interval=1 makes one due"
    assert line in done.err + done.out
    assert "no cycle is due" not in command("trainer.epochs=3", "schedule.interval=1", *tiny).out


def test_a_sweep_of_one_run_says_so(command):
    done = command("-m", "seed=1", "sweep.dry_run=true")
    assert "no setting has several values, so this is one run" in done.out
