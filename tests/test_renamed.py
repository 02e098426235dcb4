"""What older code and configurations import is still there, and once only."""

import importlib
import subprocess
import sys

import pytest

from refine.renamed import RENAMED, current


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_module_is_the_present_one(old):
    assert importlib.import_module(old) is importlib.import_module(RENAMED[old])


# What the README of version 0.1.0 imported, and the targets that its configurations could hold.
@pytest.mark.parametrize(
    "path",
    [
        "refine.RuntimeRefinement", "refine.CycleReport", "refine.Replay", "refine.Distillation",
        "refine.Recovery", "refine.Cache", "refine.Structured", "refine.Regularizer",
        "refine.load_model", "refine.network_file.read", "refine.distillation.Self",
        "refine.recovery.slr", "refine.replay.storage.reservoir",
        "refine.pruning.criteria.group_norm", "refine.regularization.kinds.group_norm",
        "refine.muon.Muon", "refine.stages.Stages", "refine.datasets.digits",
        "refine.datasets.image_folder", "refine.models.simple_cnn", "refine.models.vit",
        "refine.schedule.Periodic", "refine.schedule.OneShot", "refine.schedule.Listed",
        "refine.tracking.csv.Csv", "refine.tracking.mlflow.MLflow",
        "refine.tracking.tensorboard.TensorBoard", "refine.pruning.importance.taylor",
        "refine.pruning.allocation.lamp", "refine.datasets.augmentation.flip",
    ],
)  # fmt: skip
def test_public_paths_stay(path):
    module, _, name = path.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_what_a_name_is_now():
    assert current("refine.muon.Muon") == "refine.training.optim.Muon"
    assert current("refine.muonic.Muon") == "refine.muonic.Muon"
    assert current("torch.optim.Adam") == "torch.optim.Adam"


def test_no_old_module_is_imported_before_it_is_asked_for():
    code = "import refine, sys; print('torch' in sys.modules, 'refine.training' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
