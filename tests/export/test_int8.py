"""8-bit files stay within a tolerance, and an export is there whole or not at all."""

import json
import os

import pytest
import torch
from conftest import SMALL, run_in
from safetensors.torch import load_file, save_file

from refine.export import work
from refine.export.cli import main
from refine.training import optim


@pytest.fixture(scope="session")
def spoiled(tmp_path_factory):
    """A run whose network is the same function as before, but with a channel between its first two
    convolutions that is so large that 8 bits leave nothing of the others."""
    settings = ("save_model=true", "dataset.image_size=16", "dataset.subset_size=400")
    asked = (*SMALL, *settings, "trainer.epochs=4", "schedule=never", "dataset.validation_size=100")
    run = run_in(
        tmp_path_factory.mktemp("spoiled") / "run",
        *(o for o in asked if not o.startswith(("schedule.", "replay."))),
    ).directory
    tensors = load_file(run / "model.safetensors")
    largest = int(tensors["conv2.weight"].abs().sum((0, 2, 3)).argmin())
    for name in ("bn1.weight", "bn1.bias"):
        tensors[name][largest] *= 3000
    tensors["conv2.weight"][:, largest] /= 3000
    save_file(tensors, run / "model.safetensors")
    return run


def test_layers_that_8_bits_spoil_stay_in_single_precision(spoiled, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    assert (
        main([str(spoiled), "--format", "int8", "--tolerance", "0.9", "--to", str(tmp_path / "a")])
        == 0
    )
    loose = json.loads((tmp_path / "a" / "export.json").read_text())
    assert loose["accuracy"] - loose["files"][0]["accuracy"] > 0.1
    assert "single precision" not in loose["files"][0]["how"]
    assert main([str(spoiled), "--format", "int8", "--to", str(tmp_path / "b")]) == 0
    (file,) = json.loads((tmp_path / "b" / "export.json").read_text())["files"]
    assert abs(loose["accuracy"] - file["accuracy"]) < 0.05  # chosen on validation images
    kept = file["how"].partition("single precision for ")[2].partition(":")[0].split(", ")
    assert "conv2" in kept
    assert len(kept) < 5
    assert "single precision for" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["-0.1", "1", "nan", "half"])
def test_a_tolerance_that_is_none_is_refused(given, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--tolerance", given])
    assert stop.value.code == 2
    assert "--tolerance" in capsys.readouterr().err


def test_an_export_that_fails_leaves_nothing(spoiled, tmp_path, monkeypatch, capsys):
    to = tmp_path / "out"
    left = tmp_path / f".out.{2**22 + 5}.part"  # of a process that no longer exists
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device", str(to / "model.pt2"))
        broken = work.FORMATS["torch"].__class__(
            lambda *_: (_ for _ in ()).throw(full), "model.pt2"
        )
        patch.setitem(work.FORMATS, "torch", broken)
        assert main([str(spoiled), "--format", "safetensors,torch", "--to", str(to)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main([str(spoiled), "--format", "safetensors", "--to", str(to)]) == 0
    names = {path.name for path in to.iterdir()}
    assert names == {"model.safetensors", "export.json"}
    (to / "mine.txt").write_text("stays")
    other = to.with_name(f".out.{os.getppid()}.part")  # somebody's who is writing
    other.mkdir()
    assert main([str(spoiled), "--format", "torch", "--to", str(to), "--force"]) == 0
    assert {path.name for path in to.iterdir()} == names | {"model.pt2", "mine.txt"}
    assert other.is_dir()


def test_muon_is_in_bf16_only_where_that_is_fast(monkeypatch):
    seen = []
    norm = torch.Tensor.norm

    def noting(self, *arguments):
        seen.append(self.dtype)
        return norm(self, *arguments)

    monkeypatch.setattr(torch.Tensor, "norm", noting)
    matrix = torch.randn(128, 1024)
    for fast in (True, False):
        monkeypatch.setattr(optim, "has_fast_bf16", lambda device, fast=fast: fast)
        optim.orthogonalized(matrix, 1)
        optim.orthogonalized(matrix[:, :64], 1)
    assert seen == [torch.bfloat16, torch.float32, torch.float32, torch.float32]
