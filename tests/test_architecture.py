"""The house: who may import whom, how long a module and a function may be."""

import ast
from pathlib import Path

import pytest

import refine

HOME = Path(refine.__file__).parent
# From the ground up. A part imports itself and what stands on lower levels, nothing beside it.
LEVELS = (
    {"cycle_report", "errors", "parallel", "plain", "renamed", "rng", "models"},
    {"batches", "setting"},
    {"objective", "schedule", "sparsity"},
    {"config", "evaluation", "process", "records", "recovery"},
    {"datasets", "distillation", "pruning", "report", "tracking"},
    {"channels", "regrowth", "replay"},
    {"cache", "regularization"},
    {"cycle"},
    {"refinement", "stored"},
    {"training"},
    {"builders"},
    {"experiment", "export"},
    {"bench", "cli"},
    {"study"},
    {"commands"},
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# What answers before torch has been imported: help, mistakes, reports. Each may import torch where
# it trains or loads a network, inside a function.
TORCHLESS = (
    "cli", "commands", "config", "errors", "process", "records", "renamed", "report", "study",
)  # fmt: skip
# The command line, what overrides say and mean, and a study's values, of the same grammar.
KNOW_HYDRA = {
    HOME / "cli" / "run.py", HOME / "cli" / "overrides.py", HOME / "cli" / "compose.py",
    HOME / "study" / "space.py",
}  # fmt: skip
LONG = {HOME / "config" / "schema.py"}  # one table


def modules():
    """Each module's dotted name, path and tree."""
    for path in sorted(HOME.rglob("*.py")):
        if path.name != "__main__.py":
            parts = path.relative_to(HOME.parent).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            yield name, path, ast.parse(path.read_text(encoding="utf-8"))


MODULES = {name: (path, tree) for name, path, tree in modules()}


def imports(tree, only_at_once=False):
    """What a tree imports, by dotted name; ``only_at_once``: as the module is loaded."""
    for node in tree.body if only_at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def part(name):
    return name.split(".")[1] if "." in name else ""


def arrows():
    """Who imports which module of ours."""
    for name, (_, tree) in MODULES.items():
        for target in imports(tree):
            if target in MODULES and target not in (name, "refine"):
                yield name, target


def test_every_part_has_its_level():
    assert {part(name) for name in MODULES} - {""} == set(LEVEL)


def test_imports_point_down():
    wrong = [
        f"{name} imports {target}"
        for name, target in arrows()
        if part(name) != part(target) and part(name) and LEVEL[part(name)] <= LEVEL[part(target)]
    ]
    assert not wrong


def cycle_in(graph):
    """Nodes that can be reached from themselves."""
    left = {node: set(targets) for node, targets in graph.items()}
    while free := {node for node, targets in left.items() if not targets & left.keys()}:
        left = {node: targets for node, targets in left.items() if node not in free}
    return left


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: set() for name in MODULES}
    for name, target in arrows():
        # A package's __init__ names what is in it; its own modules do not count as its users.
        if not name.startswith(f"{target}."):
            graph[name].add(target)
    assert not cycle_in(graph)


def test_no_folder_imports_itself_by_way_of_others():
    graph = {name: set() for name in LEVEL}
    for name, target in arrows():
        if part(name) and part(name) != part(target):
            graph[part(name)].add(part(target))
    assert not cycle_in(graph)


def test_a_circle_would_be_found():
    assert set(cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}})) >= {"b", "c"}
    assert not cycle_in({"a": {"b"}, "b": {"c"}, "c": set()})


@pytest.mark.parametrize("room", TORCHLESS)
def test_help_and_reports_import_no_torch(room):
    for name, (_, tree) in MODULES.items():
        if part(name) == room:
            at_once = {target.split(".")[0] for target in imports(tree, only_at_once=True)}
            assert "torch" not in at_once, name


def test_few_know_hydra():
    for path, tree in MODULES.values():
        hydra = [name for name in imports(tree) if name.split(".")[0] == "hydra"]
        assert path in KNOW_HYDRA or set(hydra) <= {"hydra.utils"}, path


def test_every_module_says_what_it_answers():
    for name, (_, tree) in MODULES.items():
        assert ast.get_docstring(tree), name


def test_modules_and_functions_are_short():
    long = []
    for path, tree in MODULES.values():
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > 250 and path not in LONG:
            long.append(f"{path} has {len(lines)} lines")
        for node in ast.walk(tree):
            function = isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
            if function and "# Long: " not in lines[node.lineno - 2]:
                long.append(f"{path}:{node.lineno} {node.name}")
    assert not long, "\n".join(long)
