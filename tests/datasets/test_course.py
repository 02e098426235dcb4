from collections import Counter
from dataclasses import replace

import pytest
import torch

from refine.datasets import augmentation, digits
from refine.datasets import course as courses
from refine.datasets.course import Course
from refine.datasets.images import Images, Normalization
from refine.datasets.prepare import Data

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def data():
    """The digits as they are, 200 of them to validate on."""
    raw = digits("", None)
    train, validation = raw.train[200:], raw.train[:200]
    normalization = Normalization.of(train)
    return Data(train, validation, raw.test, raw.classes, normalization, augmentation.none)


def sized(count):
    """A task of so many black pictures to train on."""
    images = Images(torch.zeros(count, 2, 2, 3, dtype=torch.uint8), torch.zeros(count).long())
    normalization = Normalization(torch.zeros(3), torch.ones(3))
    return Data(images, None, images[:1], ["cat", "dog"], normalization, augmentation.none)


def pictures(*parts):
    """How often each picture is in there, with its label."""
    found = Counter()
    for images in parts:
        found.update(
            (picture.numpy().tobytes(), int(label))
            for picture, label in zip(images.pixels, images.labels, strict=True)
        )
    return found


def labels(task):
    return {part: sorted(set(getattr(task, part).labels.tolist())) for part in PARTS}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (None, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]),
        (3, [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (10, [[label] for label in range(10)]),
        (1, [list(range(10))]),
    ],
)
def test_classes_are_divided_evenly_in_their_order(data, count, expected):
    stream = courses.classes(data, count, 0)
    assert [labels(task) for task in stream] == [dict.fromkeys(PARTS, part) for part in expected]
    assert all(task.classes == data.classes for task in stream)  # one head answers for all


def test_the_last_of_an_odd_number_of_classes_is_alone(data):
    part = lambda images: images[images.labels < 5]  # noqa: E731
    odd = Data(
        part(data.train), None, part(data.test), list("01234"), data.normalization, data.augment
    )
    found = [sorted(set(task.test.labels.tolist())) for task in courses.classes(odd, None, 0)]
    assert found == [[0, 1], [2, 3], [4]]
    assert all(task.validation is None for task in courses.classes(odd, None, 0))


def test_every_image_is_in_one_task(data):
    stream = courses.classes(data, 3, 0)
    for part in PARTS:
        split = pictures(*(getattr(task, part) for task in stream))
        assert split == pictures(getattr(data, part))


def test_moments_are_those_of_the_first_task(data):
    stream = courses.classes(data, None, 0)
    first = data.train.pixels[data.train.labels < 2].reshape(-1, 3).double()
    for task in stream:
        assert torch.allclose(task.normalization.mean, first.mean(0).float())
        assert torch.allclose(task.normalization.std, first.std(0, correction=0).float())
    assert not torch.allclose(stream[0].normalization.mean, data.normalization.mean)


@pytest.mark.parametrize("part", PARTS)
def test_a_task_without_images_names_its_classes(data, part):
    images = getattr(data, part)
    without = replace(data, **{part: images[(images.labels != 4) & (images.labels != 5)]})
    name = "training" if part == "train" else part
    with pytest.raises(ValueError, match=f"no {name} images of the classes 4, 5"):
        courses.classes(without, None, 0)
    with pytest.raises(ValueError, match=f"no {name} images of the classes 0, 1, 2"):
        courses.permuted(replace(data, **{part: images[:0]}), None, 0)


@pytest.mark.parametrize(("count", "says"), [(11, "10 classes .* 11 tasks"), (0, "not 0")])
def test_classes_that_do_not_suffice_are_refused(data, count, says):
    with pytest.raises(ValueError, match=says):
        courses.classes(data, count, 0)


def test_pixels_are_permuted_within_all_pictures_of_a_task_alike(data):
    # Where every pixel is another, a picture tells its order.
    numbers = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1)
    marked = numbers + torch.tensor([0, 64, 128], dtype=torch.uint8)
    label = torch.zeros(1, dtype=torch.long)
    told = Images(marked, label)
    parts = {part: getattr(data, part) for part in PARTS}
    marked_data = replace(
        data, **{part: Images(
            torch.cat([told.pixels, images.pixels]), torch.cat([label, images.labels])
        ) for part, images in parts.items()},
    )  # fmt: skip
    first, *others = courses.permuted(marked_data, None, 7)
    assert first is marked_data
    assert len(others) == 4
    orders = []
    for task in others:
        order = task.train.pixels[0, :, :, 0].flatten().long()
        assert sorted(order.tolist()) == list(range(64))
        orders.append(tuple(order.tolist()))
        for part in PARTS:
            before, after = getattr(marked_data, part), getattr(task, part)
            for channel in range(3):
                naive = before.pixels[..., channel].flatten(1)[:, order]
                assert after.pixels[..., channel].flatten(1).equal(naive)
            assert after.labels.equal(before.labels)
            assert after.pixels.is_contiguous()
        # What is the same for all pictures leaves their moments.
        assert Normalization.of(task.train).mean.equal(Normalization.of(marked_data.train).mean)
    assert len({*orders, tuple(range(64))}) == 5


def test_permutations_follow_the_seed_and_not_the_number_of_tasks(data):
    drawn = lambda count, seed: [  # noqa: E731
        task.test.pixels for task in courses.permuted(data, count, seed)
    ]
    three = drawn(3, 1)
    assert all(a.equal(b) for a, b in zip(three, drawn(4, 1), strict=False))
    assert not any(a.equal(b) for a, b in zip(three[1:], drawn(3, 2)[1:], strict=True))


def test_permuted_needs_no_square_but_unaugmented_pictures(data):
    wide = replace(data, **{
        part: Images(getattr(data, part).pixels[:, :3], getattr(data, part).labels)
        for part in PARTS
    })  # fmt: skip
    assert courses.permuted(wide, 2, 0)[1].test.pixels.shape == (360, 3, 8, 3)
    with pytest.raises(ValueError, match="set augment=none"):
        courses.permuted(replace(data, augment=augmentation.crop), 2, 0)
    with pytest.raises(ValueError, match="not 0"):
        courses.permuted(data, 0, 0)


def test_no_tasks_is_one_task(data):
    for count in (None, 1):
        (task,) = courses.none(data, count, 0)
        assert task is data
    with pytest.raises(ValueError, match="not 3; choose"):
        courses.none(data, 3, 0)


def test_a_course_of_one_task_is_trivial(data):
    course = Course([data], 5, 50)
    steps = len(data.training(50, torch.Generator()))
    for epoch in range(1, 6):
        assert course.task(epoch) == 0
        assert course.begins(epoch) == (epoch == 1)
        assert course.ends(epoch) == (epoch == 5)
        assert course.steps(epoch) == steps
        assert course.steps_before(epoch) == (epoch - 1) * steps
    assert course.total_steps == 5 * steps


@pytest.mark.parametrize("epochs", [3, 6, 9])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_a_course_counts_the_steps_that_are_made(epochs, batch_size):
    course = Course([sized(count) for count in (9, 22, 4)], epochs, batch_size)
    of, made, done = [], [], 0
    for task in range(3):
        for turn in range(epochs // 3):
            epoch = len(of) + 1
            of.append(task)
            assert course.begins(epoch) == (turn == 0)
            assert course.ends(epoch) == (turn == epochs // 3 - 1)
            made.append(len(list(course.tasks[task].training(batch_size, torch.Generator()))))
            assert course.steps(epoch) == made[-1]
            assert course.steps_before(epoch) == done
            done += made[-1]
    assert [course.task(epoch) for epoch in range(1, epochs + 1)] == of
    assert course.total_steps == done == sum(made)


def test_nothing_is_trained_outside_a_course():
    course = Course([sized(5), sized(5)], 4, 2)
    for epoch in (0, 5):
        assert not course.begins(epoch)
        assert not course.ends(epoch)
        with pytest.raises(ValueError, match="not in range"):
            course.task(epoch)


def test_epochs_that_the_tasks_cannot_share_are_refused():
    with pytest.raises(ValueError, match=r"^epochs 20 must be a multiple of the 3 tasks$"):
        Course([sized(2)] * 3, 20, 2)
