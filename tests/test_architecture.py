"""Who may import whom."""

import ast
from pathlib import Path

import refine

HOME = Path(refine.__file__).parent
LEAVES = {"errors", "files", "names", "rows"}
# Each part may import the leaves and what stands here; imports point down this list.
MAY_IMPORT = {
    "study": {"composition", "config", "experiment", "report"},
    "cli": {
        "composition", "config", "device", "experiment", "help", "report", "resume",
        "run_directory", "signals", "sweep",
    },
    "restore": {"cache", "checkpoint", "command", "report"},
    "bench": {
        "command", "datasets", "device", "evaluation", "export", "network_file", "report",
        "run_directory", "trained",
    },
    "export": {
        "command", "datasets", "evaluation", "network_file", "pruning", "shrinking", "trained",
    },
    "help": {"config"},
    "composition": {"config"},
    "experiment": {
        "assembly", "checkpoint", "config", "datasets", "device", "refinement", "report",
        "run_directory", "signals", "sparse_training", "tracking", "trainer",
    },
    "trained": {"assembly", "config", "datasets", "models", "network_file"},
    "network_file": {"build", "cache", "models", "shrinking"},
    "assembly": {
        "batches", "build", "cache", "checkpoint", "datasets", "device", "distillation",
        "evaluation", "learning_rate", "masks", "optimizer_watch", "phases", "position", "pruning",
        "randomness", "recovery", "refinement", "regularization", "replay", "schedule", "shrinking",
        "stepper",
    },
    "tracking": {"build", "config"},
    "checkpoint": {
        "learning_rate", "position", "randomness", "recovery", "refinement", "stepper",
    },
    "trainer": {
        "batches", "cycle_report", "datasets", "evaluation", "learning_rate", "measuring",
        "phases", "position", "randomness", "recovery", "refinement", "stepper",
    },
    "refinement": {
        "batches", "cache", "cycle_report", "distillation", "masks", "optimizer_watch", "pruning",
        "ranking", "regularization", "replay", "replay_training", "shrinking",
    },
    "replay_training": {"batches", "distillation", "evaluation", "optimizer_watch", "replay"},
    "learning_rate": {"recovery"},
    "stepper": {"device", "distillation", "regularization"},
    "measuring": {"datasets", "evaluation"},
    "phases": {"datasets"},
    "recovery": {"masks", "shrinking"},
    "distillation": {"evaluation", "shrinking"},
    "cache": {"masks", "pruning"},
    "optimizer_watch": {"freeze", "masks", "shrinking"},
    "regularization": {"masks", "pruning", "shrinking"},
    # Scoring leaves the network's modes and the random generators as they were.
    "pruning": {"channels", "evaluation", "masks", "randomness", "ranking", "shrinking"},
    "replay": {"batches", "evaluation", "randomness"},
    "batches": {"randomness"},
    "datasets": {"build"},
    "run_directory": set(),
    "resume": {"config", "report"},
    "sweep": {"config", "report"},
    "report": set(),
    "build": set(),
    "config": {"combinations"},
    "device": set(),
    "evaluation": set(),
    "freeze": {"masks"},
    "masks": {"channels", "ranking", "shrinking"},
    "muon": set(),
    "stages": set(),
    "sparse_training": set(),
    "models": set(),
    "randomness": set(),
    "schedule": set(),
    "channels": set(),
    "combinations": set(),
    "command": set(),
    "cycle_report": set(),
    "position": set(),
    "ranking": set(),
    "shrinking": set(),
    "signals": set(),
    "errors": set(),
    "files": set(),
    "names": set(),
    "rows": set(),
}  # fmt: skip
TORCHLESS = (
    "cli", "combinations", "command", "composition", "config", "help", "resume", "signals", "sweep",
    "errors", "files", "names", "restore", "rows", "report", "study",
)  # fmt: skip
# The command line, what overrides mean, and a study's values, which are of the same grammar.
KNOW_HYDRA = {HOME / "cli.py", HOME / "composition.py", HOME / "study" / "space.py"}


def imports(path):
    """Dotted names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def modules():
    for path in sorted(HOME.rglob("*.py")):
        part = path.relative_to(HOME).parts[0].removesuffix(".py")
        if part not in ("__init__", "__main__"):
            yield part, path


def test_imports_point_one_way():
    order = list(MAY_IMPORT)
    for part, allowed in MAY_IMPORT.items():
        assert all(order.index(below) > order.index(part) for below in allowed), part
    for part, path in modules():
        for name in imports(path):
            if name.startswith("refine."):
                target = name.split(".")[1]
                assert target == part or target in MAY_IMPORT[part] | LEAVES, f"{path}: {name}"


def test_reports_and_help_import_no_torch():
    for part, path in modules():
        if part in TORCHLESS:
            assert not [name for name in imports(path) if name.split(".")[0] == "torch"], path


def test_few_know_hydra():
    for _, path in modules():
        hydra = [name for name in imports(path) if name.split(".")[0] == "hydra"]
        assert path in KNOW_HYDRA or hydra in ([], ["hydra.utils"]), path


def test_every_module_says_which_question_it_answers():
    for _, path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, path
