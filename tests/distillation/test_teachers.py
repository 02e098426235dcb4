"""A trained teacher of any architecture, with its own normalisation of the images."""

import pytest
import safetensors.torch
import torch
from conftest import run_in
from runs import as_before

from refine import models
from refine.builders import build_course, build_data, build_model
from refine.builders.teacher import dense_teacher
from refine.cli.compose import composed
from refine.config import typed
from refine.distillation.teacher import Renormalized
from refine.errors import SettingError
from refine.export.trained import Trained

DIGITS = (
    "dataset=digits", "dataset.image_size=16", "dataset.subset_size=100", "dataset.test_size=20",
    "dataset.augment=none",
)  # fmt: skip
TEACHER = (*DIGITS, "replay=none", "schedule=never", "trainer.epochs=1")
STUDENT = (
    *DIGITS, "model=logistic", "trainer.epochs=2", "schedule.interval=1", "replay.steps=1",
    "replay.buffer_size=20", "replay.batch_size=20", "distillation=dense",
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run of a convolutional network on other pictures of the same digits."""
    place = tmp_path_factory.mktemp("teacher") / "run"
    return run_in(place, *TEACHER, "model=simple_cnn", "seed=7").directory


def built(source, *more, student="logistic"):
    """The teacher and the data of a run."""
    config = typed(composed([*STUDENT, f"model={student}", f"distillation.source={source}", *more]))
    course = build_course(config, build_data(config.dataset, config.seed, torch.device("cpu")))
    model = build_model(config.model, course.tasks[0], torch.device("cpu"))
    before = torch.get_rng_state()
    network = dense_teacher(str(source), model, course)
    assert torch.equal(torch.get_rng_state(), before)  # the run draws as it would without one
    return network, course.tasks[0]


@torch.no_grad()
def logits(network, data):
    images, _ = next(iter(data.plain(data.test)))
    return network.eval()(images)


def test_another_architecture_says_what_it_says_of_its_own_images(teacher):
    network, data = built(teacher)
    own = Trained(teacher)
    assert isinstance(network, Renormalized)  # another seed: other training images, other moments
    images, _ = next(iter(data.plain(data.test)))
    pixels = data.test.pixels.permute(0, 3, 1, 2).float()
    shape = (-1, 1, 1)
    norm = own.data.normalization
    theirs = (pixels - norm.mean.view(shape)) / norm.std.view(shape)
    with torch.no_grad():
        wanted = own.network()(theirs)
        assert torch.allclose(network.eval()(images), wanted, atol=1e-5)
        assert not torch.allclose(own.network()(images), wanted, atol=1e-4)


def test_an_old_run_says_by_its_configuration_which_network_it_is(teacher, tmp_path, caplog):
    old = tmp_path / "old"
    as_before(teacher, old)
    (old / "network.json").unlink()
    network, data = built(old, "seed=7")
    assert "stores no normalisation" in caplog.text
    assert torch.equal(logits(network, data), logits(built(teacher, "seed=7")[0], data))


def test_a_run_learns_from_it(teacher, tmp_path):
    done = run_in(tmp_path / "run", *STUDENT, f"distillation.source={teacher}")
    assert done.summary["cycles"] == 1


def test_the_same_architecture_and_data_need_no_step_in_between(teacher):
    network, _ = built(teacher, "seed=7", student="simple_cnn")
    assert type(network) is type(models.simple_cnn())


def test_features_of_another_width_are_refused(teacher, tmp_path):
    given = (*STUDENT, f"distillation.source={teacher}", "distillation.match=features")
    with pytest.raises(SettingError, match=r"distillation.match: the teacher has features of 128"):
        run_in(tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: models.logistic(num_classes=7, image_shape=(3, 16, 16)),
         "has 7 classes and the data 10 (1.weight); name a network that was trained on the same"),
        (lambda: models.simple_cnn(image_shape=(3, 16, 16)), "name its run's directory"),
        (lambda: models.logistic(image_shape=(3, 32, 32)), "1.weight is 10x3072 in it"),
    ],
)  # fmt: skip
def test_a_bare_file_of_another_network_is_refused(make, said, tmp_path):
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_model(make(), str(path))
    with pytest.raises(SettingError) as error:
        built(path)
    assert str(error.value).startswith("distillation.source: ")
    assert said in str(error.value)


def test_a_teacher_of_other_classes_is_refused(teacher, tmp_path):
    other = tmp_path / "other"
    as_before(teacher, other)
    about = (other / "network.json").read_text()
    (other / "network.json").write_text(about.replace('"9"', '"ten"'))
    with pytest.raises(SettingError, match="only the file has ten, only the data has 9"):
        built(other)
