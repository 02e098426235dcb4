import re

import pytest
import torch
from conftest import ROOT
from write_reference import page

from refine.config import GROUPS, choices, config_directory


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def programs(name):
    return re.findall(r"```python\n(.*?)```", text_of(name), re.DOTALL)


CHOICES = text_of("docs/choices.md") + text_of("docs/channels.md")
(LOOP,) = programs("README.md")
(CONSOLIDATION,) = programs("docs/library.md")
(IMPORTANCE,) = programs("docs/own.md")
(CHANNELS,) = programs("docs/channels.md")
(DEPLOY,) = programs("docs/deploy.md")
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]


def test_the_librarys_loop_runs(capsys):
    from refine.models import simple_cnn

    assert len([line for line in LOOP.splitlines() if line]) <= 15
    generator = torch.Generator().manual_seed(0)
    loader = [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8)) for _ in range(2)]
    given = {"model": simple_cnn(), "loader": loader}
    exec(LOOP, given)
    assert capsys.readouterr().out.splitlines() == [
        f"epoch {epoch}: {sparsity} of all parameters are cut"
        for epoch, sparsity in ((5, "15.0%"), (10, "27.7%"), (15, "38.5%"))
    ]
    dense = sum(int((weight != 0).sum()) for weight in given["model"].parameters())
    assert dense == given["report"].active_parameters == 357_868


def test_the_loop_with_all_its_parts_runs():
    from refine.models import simple_cnn

    generator = torch.Generator().manual_seed(0)
    loader = [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8)) for _ in range(2)]
    model = simple_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"model": model, "optimizer": optimizer, "loader": loader}
    exec(CONSOLIDATION, given)
    assert optimizer.param_groups[0]["lr"] == 0.1  # the curve's first: where it came from
    report, refinement = given["report"], given["refinement"]
    assert report.memory_examples == 16
    assert report.cache_bytes > 0
    back = refinement.active_parameters - report.active_parameters
    assert back == round(0.1 * sum(report.cut.values()))


def test_the_loop_that_takes_channels_out_runs(capsys):
    from refine.models import simple_cnn

    pytest.importorskip("torch_pruning")
    generator = torch.Generator().manual_seed(0)
    loader = [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8)) for _ in range(2)]
    given = {"model": simple_cnn(), "loader": loader}
    exec(CHANNELS, given)
    assert given["report"].macs <= 8_488_192 // 2
    assert "MACs are left" in capsys.readouterr().out
    given["regularizer"].begin_epoch(1)
    given["model"](loader[0][0]).sum().backward()
    given["regularizer"].add_gradients_(given["model"])


def test_the_exported_network_is_loaded_as_it_says(run, monkeypatch, tmp_path):
    from refine.export.cli import main

    run("dataset.subset_size=100", "trainer.epochs=1", name="run")
    monkeypatch.chdir(tmp_path)
    assert main(["run"]) == 0
    given = {"pictures": torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)}
    exec(DEPLOY.replace("RUN_DIR", "run"), given)
    assert given["logits"].shape == (5, 10)


def test_the_importance_of_ones_own_runs(command, tmp_path):
    (tmp_path / "mine.py").write_text(IMPORTANCE)
    done = command(
        "pruner.importance=mine.distance_from_mean", "model=logistic", "trainer.epochs=2",
        "schedule.interval=1", "output_dir=run",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_is_named(group):
    (row,) = [line for line in CHOICES.splitlines() if line.startswith(f"| `{group}` |")]
    named = set(re.findall(r"`(\w+)`", row.rsplit("|", 2)[1]))
    assert named == {path.stem for path in (config_directory() / group).glob("*.yaml")}


@pytest.mark.parametrize(
    "table",
    [
        "IMPORTANCES",
        "ALLOCATIONS",
        "GRANULARITIES",
        "CRITERIA",
        "REGULARIZERS",
        "REGROWTHS",
        "REGROWTH_ALLOCATIONS",
        "INITIALS",
        "SELECTIONS",
        "STORAGES",
        "SAMPLINGS",
        "TEACHERS",
        "MATCHED",
        "CURVES",
        "CACHES",
        "SPLITS",
    ],
)
def test_every_choice_has_its_line(table):
    for name, meaning in getattr(choices, table).items():
        assert f"\n- `{name}`: {meaning}\n" in CHOICES


def test_every_schedule_has_its_line():
    for path in (config_directory() / "schedule").glob("*.yaml"):
        meaning = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert f"\n- `{path.stem}`: {meaning}\n" in CHOICES


def test_the_reference_is_what_the_schema_says():
    assert text_of("docs/reference.md") == page(), "run python scripts/write_reference.py"


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)#:]+)\)", text_of(name)):
        assert ((ROOT / name).parent / link).exists(), link


def test_the_readme_is_read_in_ten_minutes():
    assert len(text_of("README.md").encode()) <= 9_000
