"""What a stored network needs of the data: its classes, the shape of its images and their
normalisation. It is the same whatever data set a command reads."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from conftest import run_in
from PIL import Image, ImageEnhance
from runs import as_before

import refine
from refine import models
from refine.builders.described import class_difference
from refine.builders.saved import saved
from refine.cli.restore import main as restore
from refine.datasets.images import Normalization
from refine.errors import NetworkError, SettingError
from refine.export.trained import Trained
from refine.stored.description import Description, as_text
from refine.stored.network_file import write

TINY = (
    "model=logistic", "dataset=digits", "dataset.image_size=8", "replay=none", "trainer.epochs=1",
    "dataset.subset_size=100", "dataset.test_size=20", "schedule=never",
)  # fmt: skip
CUT = (*TINY[:-1], "trainer.epochs=2", "schedule.interval=1")


def folder(*more):
    return (
        "model=simple_cnn", "dataset=image_folder", "dataset.image_size=32", "replay=none",
        "trainer.epochs=1", "schedule=never", "dataset.augment=none", *more,
    )  # fmt: skip


def refused(directory, *overrides):
    with pytest.raises(SettingError) as error:
        run_in(directory, *overrides)
    assert not directory.exists()
    return str(error.value)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of a logistic model on ten digits."""
    return run_in(tmp_path_factory.mktemp("first") / "run", *TINY).directory


@pytest.fixture(scope="module")
def pictures(folder_of_digits):
    return folder_of_digits


@pytest.fixture(scope="module")
def dark(pictures, tmp_path_factory):
    """The same pictures at 35 % of their brightness."""
    home = tmp_path_factory.mktemp("dark") / "pictures"
    shutil.copytree(pictures, home)
    for path in home.rglob("*.png"):
        picture = Image.open(path).convert("RGB")
        ImageEnhance.Brightness(picture).enhance(0.35).save(path)
    return home


@pytest.fixture(scope="module")
def other(pictures, tmp_path_factory):
    """The same pictures, two classes of which have other names."""
    home = tmp_path_factory.mktemp("other") / "pictures"
    shutil.copytree(pictures, home)
    for part in ("train", "test"):
        for old, new in (("3", "cat"), ("7", "dog")):
            (home / part / old).rename(home / part / new)
    return home


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    place = tmp_path_factory.mktemp("trained") / "run"
    return run_in(place, *folder(f"dataset.root={pictures}", "checkpoint.keep=true")).directory


def stored(path, classes=10, image=(3, 8, 8)):
    torch.manual_seed(0)
    network = models.logistic(num_classes=classes, image_shape=image)
    safetensors.torch.save_model(network, str(path))
    return path


@pytest.mark.parametrize(
    ("classes", "image", "said"),
    [
        (1000, (3, 8, 8), "has 1,000 classes and the data 10 (1.weight); start_from_head=new"),
        (3, (3, 8, 8), "has 3 classes and the data 10 (1.weight); start_from_head=new"),
        (
            10,
            (3, 32, 32),
            "1.weight is 10x3072 in it and 10x192 here; use the model and dataset.im",
        ),
        (10, (3, 4, 4), "does not take images of 3x8x8; use the model and dataset.image_size"),
    ],
)
def test_a_file_of_another_size_is_refused(classes, image, said, tmp_path):
    path = stored(tmp_path / "net.safetensors", classes, image)
    assert said in refused(tmp_path / "run", *CUT, f"start_from={path}")


def test_a_file_of_torch_is_refused_in_a_line(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(models.logistic(image_shape=(3, 8, 8)).state_dict(), path)
    text = refused(tmp_path / "run", *CUT, f"start_from={path}")
    assert text.startswith(f"start_from: {path} was written by torch.save")
    assert "safetensors.torch.save_file" in text
    with pytest.raises(NetworkError, match=r"net.pth was written by torch.save.*save_file"):
        refine.load_model(path)
    path.write_bytes(b"runtime-refinement checkpoint 2, sha256 ")
    with pytest.raises(NetworkError, match=r"is the checkpoint of a run: .*model.safetensors"):
        refine.load_model(path)


def test_a_new_head_for_other_classes(tmp_path):
    path = stored(tmp_path / "net.safetensors", 1000)
    done = run_in(tmp_path / "run", *CUT, f"start_from={path}", "start_from_head=new")
    assert 0 < done.summary["sparsity"] <= 0.15
    assert done.summary["total_parameters"] == 1930


def test_a_new_head_on_what_was_narrowed(tmp_path):
    torch.manual_seed(0)
    network = models.simple_cnn(num_classes=7, image_shape=(3, 32, 32))
    tensors = dict(network.state_dict())
    narrow = 100  # hidden units of 128
    tensors["fc2.weight"] = tensors["fc2.weight"][:, :narrow]
    for name in ("fc1.weight", "fc1.bias"):
        tensors[name] = tensors[name][:narrow]
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    given = ("replay=none", "schedule=never", "trainer.epochs=1", "dataset.subset_size=100",
             "dataset=digits", "dataset.image_size=32", "model=simple_cnn", "dataset.test_size=20",
             "trainer.optimizer.lr=1e-9", f"start_from={path}")  # fmt: skip
    done = run_in(tmp_path / "run", *given, "start_from_head=new")
    left = saved("x", str(done.directory)).tensors
    assert left["fc2.weight"].shape == (10, narrow)
    assert left["fc2.weight"].std() > 0.01  # not zeros
    assert torch.allclose(left["conv1.weight"], tensors["conv1.weight"], atol=1e-6)


def test_regrowth_and_teacher_of_another_size(tmp_path):
    path = stored(tmp_path / "net.safetensors", 1000)
    grow = ("regrowth=reference", "regrowth.budget=0.1", f"regrowth.source={path}")
    text = refused(tmp_path / "run", *CUT, *grow)
    assert f"regrowth.source: {path} is of another network: 1.weight is 1000x192 in it and" in text


def test_what_a_run_stores(first):
    about = json.loads((first / "network.json").read_text())
    assert about["function"] == "logistic"
    assert about["input_shape"] == [3, 8, 8]
    assert about["classes"] == [str(number) for number in range(10)]
    data = Trained(first).data
    assert about["mean"] == (data.normalization.mean.double() / 255).tolist()


def test_export_and_bench_use_the_normalisation_of_training(trained, dark):
    own, moved = Trained(trained), Trained(trained, str(dark))
    assert torch.equal(own.data.normalization.mean, moved.data.normalization.mean)
    assert torch.equal(own.data.normalization.std, moved.data.normalization.std)
    assert own.description() == moved.description()
    assert moved.data.train.pixels.float().mean() < 0.5 * own.data.train.pixels.float().mean()


def test_other_classes_or_images_are_refused_by_name(trained, other, pictures, tmp_path):
    with pytest.raises(NetworkError) as error:
        _ = Trained(trained, str(other)).data
    for part in ("only the file has 3, 7", "only the data has cat, dog", "--dataset-root"):
        assert part in str(error.value)
    given = folder(f"dataset.root={other}", f"start_from={trained}")
    text = refused(tmp_path / "run", *given)
    assert f"start_from: {trained} is of other classes: 10 in the file, 10 in the data" in text
    assert "start_from_head=new" in text
    done = run_in(tmp_path / "new", *given, "start_from_head=new")
    assert json.loads((done.directory / "network.json").read_text())["classes"][-1] == "dog"


def test_a_run_goes_on_with_the_normalisation_of_its_start(trained, dark, tmp_path):
    given = folder(f"dataset.root={dark}", f"start_from={trained}")
    place = run_in(tmp_path / "run", *given).directory
    about = [json.loads((d / "network.json").read_text()) for d in (trained, place)]
    assert about[0]["mean"] == about[1]["mean"]
    assert about[0]["deviation"] == about[1]["deviation"]


def test_without_a_stored_normalisation_a_line_says_so(first, tmp_path, caplog):
    old = tmp_path / "old"
    as_before(first, old)
    (old / "network.json").unlink()
    data = Trained(old).data
    assert torch.equal(data.normalization.mean, Trained(first).data.normalization.mean)
    line = "stores no normalisation: that of the given data is used"
    assert line in caplog.text
    run_in(tmp_path / "run", *TINY, f"start_from={old}")
    assert line in (tmp_path / "run" / "run.log").read_text()


def test_a_stream_of_tasks_is_exported_with_the_moments_of_its_first(tmp_path):
    given = ("dataset.split=classes", "dataset.tasks=5", "trainer.epochs=5")
    run = run_in(tmp_path / "run", *TINY, *given).directory
    about = json.loads((run / "network.json").read_text())
    own = Trained(run)
    assert (own.data.normalization.mean / 255).tolist() == pytest.approx(about["mean"])
    old = as_before(run, tmp_path / "old")
    (old / "network.json").unlink()
    assert torch.equal(Trained(old).data.normalization.mean, own.data.normalization.mean)
    everything = Normalization.of(own.data.train).mean
    assert not torch.allclose(everything, own.data.normalization.mean, atol=0.1)


def test_a_folded_file_is_no_start(tmp_path):
    path = tmp_path / "net.safetensors"
    network = models.simple_cnn(image_shape=(3, 32, 32))
    network.bn1 = torch.nn.Identity()
    about = Description("simple_cnn", folded={"bn1": "conv1"}, input_shape=(3, 32, 32))
    write(path, network, about)
    text = refused(
        tmp_path / "run", "model=simple_cnn", "dataset=digits", "dataset.subset_size=60",
        "dataset.image_size=32", "replay=none", "schedule=never", f"start_from={path}",
    )  # fmt: skip
    assert "has no batch norms any more, they were folded; name the run's directory" in text


def test_what_is_stored_goes_with_the_file(first, tmp_path):
    path = tmp_path / "elsewhere.safetensors"
    shutil.copy(first / "model.safetensors", path)
    about = saved("start_from", str(path)).description
    assert about == saved("start_from", str(first)).description
    assert as_text(about) == as_text(Trained(first).description())
    images = torch.zeros(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(refine.load_model(path)(images), Trained(first).network()(images))
    kept = run_in(tmp_path / "run", *CUT, "cache=disk").directory
    assert restore([str(kept), "--cycle", "0", "--to", str(tmp_path / "before.safetensors")]) == 0
    before = saved("start_from", str(tmp_path / "before.safetensors")).description
    assert before == saved("start_from", str(kept)).description


def test_a_damaged_description_is_refused(first, tmp_path):
    bad = tmp_path / "bad"
    as_before(first, bad)
    about = json.loads((bad / "network.json").read_text())
    about["deviation"][0] = 0
    (bad / "network.json").write_text(json.dumps(about))
    text = refused(tmp_path / "run", *TINY, f"start_from={bad}")
    assert "network.json is damaged: its images cannot be normalised" in text


def test_how_classes_differ():
    assert class_difference(["a", "b"], ["a", "b"]) == ""
    assert "another order, b, a" in class_difference(["a", "b"], ["b", "a"])
    many = class_difference([*map(str, range(1000))], ["x"])
    assert many == (
        "1,000 in the file, 1 in the data, only the file has 0, 1, 2, 3 and 996 more, "
        "only the data has x"
    )


def test_a_resumed_run_refuses_other_classes(trained, other, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(trained, again)
    given = folder(f"dataset.root={other}", "trainer.epochs=2", f"resume={again}")
    with pytest.raises(SettingError, match=r"resume: .* only the data has cat, dog"):
        run_in(again, *given)
