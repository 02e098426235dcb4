import io
from collections import Counter

import pytest
import torch

from refine.replay import Generative
from refine.replay.vae import VAE

SHAPE = (2, 3, 4)
CENTRES = 2 * torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(7))


def examples(classes, count=400, shares=None, seed=0, size=50):
    """Images around a centre for each class, at random brightness, so that no two are alike."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor(shares or [1.0] * len(classes))
    labels = torch.tensor(classes)[shares.multinomial(count, True, generator=generator)]
    bright = 1 + 0.3 * torch.randn(count, 1, 1, 1, generator=generator)
    noise = 0.1 * torch.randn(count, *SHAPE, generator=generator)
    images = CENTRES[labels] * bright + noise
    return list(zip(images.split(size), labels.split(size), strict=True))


def generative(**settings):
    small = {"steps": 10, "batch_size": 60, "classes": 6, "hidden": 64, "latent": 4}
    return Generative(**small | {"training_steps": 250, "learning_rate": 3e-3} | settings)


def nearest(images):
    return torch.cdist(images.flatten(1), CENTRES.flatten(1)).argmin(1)


def together(batches):
    batches = list(batches)
    assert all(batch.weights is None and batch.places is None for batch in batches)
    return torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])


def test_what_it_makes_is_of_the_class_it_says_and_of_no_one_look():
    replay = generative()
    assert (replay.examples, replay.bytes) == (0, 0)
    stream = examples(range(6))
    images, labels = together(replay.batches(None, stream))
    assert images.shape == (600, *SHAPE)
    assert labels.dtype == torch.int64
    assert (nearest(images) == labels).float().mean() > 0.98
    real, of = (torch.cat(part) for part in zip(*stream, strict=True))
    spreads = []
    for number in range(6):
        made, seen = images[labels == number], real[of == number]
        assert (made.mean(0) - seen.mean(0)).norm() < 0.15 * seen.mean(0).norm()
        spreads.append(float(made.var(0).mean() / seen.var(0).mean()))
    # not all are the mean image; the spread is less than theirs by what the decoder leaves out
    assert 0.4 < sum(spreads) / 6 < 1.2
    assert replay.examples == 0
    layers = [(24 + 6, 64), (64, 2 * 4), (6, 64), (64, 2 * 4), (4 + 6, 64), (64, 64), (64, 24)]
    assert replay.bytes == 4 * sum((inputs + 1) * outputs for inputs, outputs in layers)


def test_classes_come_as_often_as_they_were_seen():
    replay = generative(steps=40, training_steps=16)
    _, labels = together(replay.batches(None, examples([0, 3, 5], shares=[6.0, 3.0, 1.0])))
    counts = Counter(labels.tolist())
    assert set(counts) == {0, 3, 5}
    for number, share in ((0, 0.6), (3, 0.3), (5, 0.1)):
        assert abs(counts[number] / 2400 - share) < 0.06


def test_closed_tasks_are_not_forgotten():
    replay = generative(steps=20)
    for classes, size in (([0, 1], 50), ([2, 3], 20), ([4, 5], 50)):
        replay.begin_task()
        replay.keep(None, examples(classes, size=size))
        images, labels = together(replay.batches(None, examples(classes, seed=1, size=size)))
        known = set(range(classes[-1] + 1))
        counts = Counter(labels.tolist())
        assert set(counts) == known
        per_task = Counter(label // 2 for label in labels.tolist())
        for task in per_task:  # every task in equal parts, however much of it was seen
            assert abs(per_task[task] / 1200 - 2 / len(known)) < 0.08
    for number in range(6):
        chosen = labels == number
        assert (nearest(images[chosen]) == number).float().mean() > 0.9, number


def test_without_a_new_task_it_forgets():
    """So that the test above shows something."""
    replay = generative(steps=20)
    replay.keep(None, examples([0, 1]))
    replay.keep(None, examples([2, 3]))
    _, labels = together(replay.batches(None, examples([4, 5])))
    assert set(labels.tolist()) == {4, 5}


def test_training_weighs_every_task_alike(monkeypatch):
    given = []
    loss = VAE.loss

    def noted(self, flat, numbers, noise, weights):
        given.append((numbers, weights))
        return loss(self, flat, numbers, noise, weights)

    monkeypatch.setattr(VAE, "loss", noted)
    replay = generative(training_steps=3)
    for task in range(3):
        replay.keep(None, examples([2 * task, 2 * task + 1]))
        numbers, weights = given[-1]
        assert float(weights.sum()) == pytest.approx(1)
        own = weights[numbers // 2 == task].sum()
        assert float(own) == pytest.approx(1 / (task + 1))
        assert len(weights) == (50 if task == 0 else 100)
        replay.begin_task()


def test_no_steps_ask_for_no_data_and_no_lot():
    replay = generative(steps=0)
    before = replay.generator.get_state()
    assert list(replay.batches(None, None)) == []
    replay.keep(None, None)
    replay.begin_task()
    assert replay.generator.get_state().equal(before)
    assert replay.bytes == 0


def test_random_numbers_are_its_own_and_follow_the_seed():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = together(generative(training_steps=20).batches(None, examples([0, 1])))
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(2)
    again = together(generative(training_steps=20).batches(None, examples([0, 1])))
    other = together(generative(training_steps=20, seed=1).batches(None, examples([0, 1])))
    assert first[0].equal(again[0])
    assert first[1].equal(again[1])
    assert not first[0].equal(other[0])


@torch.no_grad()
def test_it_trains_where_gradients_are_off():
    images, labels = together(generative(steps=2).batches(None, examples([0, 1])))
    assert (nearest(images) == labels).all()
    assert not images.requires_grad


@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_a_loaded_one_continues_to_the_bit(tasks):
    settings = {"training_steps": 10, "steps": 3}
    before, again = generative(**settings), generative(**settings)
    for task in range(tasks):
        list(before.batches(None, examples([task, task + 1])))
        if task == 0:
            before.begin_task()
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.bytes == before.bytes
    for task in range(3):
        expected = together(before.batches(None, examples([task])))
        found = together(again.batches(None, examples([task])))
        assert all(map(torch.equal, found, expected))
        before.begin_task()
        again.begin_task()


def test_a_state_does_not_change_with_what_it_was_taken_of():
    replay = generative(training_steps=5)
    replay.keep(None, examples([0]))
    state = replay.state_dict()
    before = {name: weight.clone() for name, weight in state["network"].items()}
    replay.keep(None, examples([0]))
    assert all(weight.equal(before[name]) for name, weight in state["network"].items())


def test_empty_loaders_and_divergence_are_said():
    with pytest.raises(ValueError, match="no batch"):
        generative().keep(None, [])
    with pytest.raises(ValueError, match="no batch"):
        generative().keep(None, iter(examples([0])))  # over before the training is
    with pytest.raises(ValueError, match="not finite"):
        generative(training_steps=3).keep(
            None, [(images * float("nan"), labels) for images, labels in examples([0])]
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_it_works_on_a_gpu_and_loads_from_the_cpu():
    stream = [(images.cuda(), labels.cuda()) for images, labels in examples(range(6))]
    replay = generative()
    drawn = torch.cuda.get_rng_state()
    replay.keep(None, stream)
    replay.begin_task()
    again = generative()
    file = io.BytesIO()
    torch.save(replay.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    images, labels = together(again.batches(None, stream))
    assert images.is_cuda
    assert labels.is_cuda
    assert (nearest(images.cpu()) == labels.cpu()).float().mean() > 0.98
    assert torch.cuda.get_rng_state().equal(drawn)
