import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine.replay import Replay, high_loss, uniform


def data(count=100, classes=3):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 5, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return images, labels, list(zip(images.split(7), labels.split(7), strict=True))


def test_high_loss_keeps_the_highest_losses_of_all():
    images, labels, batches = data()
    model = nn.Linear(5, 3)
    losses = F.cross_entropy(model(images), labels, reduction="none")
    hardest = {tuple(row.tolist()) for row in images[losses.topk(10).indices]}
    replay = Replay(high_loss, buffer_size=10, steps=4, batch_size=5)
    seen = [tuple(row.tolist()) for batch, _ in replay.batches(model, batches) for row in batch]
    assert len(seen) == 20
    assert set(seen) == hardest
    assert set(seen[:10]) == hardest  # a whole pass through the buffer before the second


def test_uniform_is_a_draw_without_repetition_that_follows_the_seed():
    images, _, batches = data()

    def drawn(seed):
        replay = Replay(uniform, buffer_size=50, steps=1, batch_size=50, seed=seed)
        ((batch, _),) = replay.batches(nn.Linear(5, 3), batches)
        return {tuple(row.tolist()) for row in batch}

    assert len(drawn(1)) == 50
    assert drawn(1) == drawn(1) != drawn(2)
    # every image is drawn about as often: 200 draws of half of them, 100 +- 6 standard deviations
    counts = dict.fromkeys((tuple(row.tolist()) for row in images), 0)
    for seed in range(200):
        for row in drawn(seed):
            counts[row] += 1
    assert all(abs(count - 100) < 6 * 7.1 for count in counts.values())


def test_the_buffer_is_bounded_while_it_fills(monkeypatch):
    joined = []
    cat = torch.cat
    monkeypatch.setattr(
        torch, "cat", lambda parts: joined.append(sum(map(len, parts))) or cat(parts)
    )
    _, _, batches = data(1000)
    replay = Replay(uniform, buffer_size=20, steps=1, batch_size=64)
    ((images, labels),) = replay.batches(nn.Linear(5, 3), batches)
    assert len(images) == len(labels) == 20
    assert max(joined) < 2 * 20 + 7  # twice the buffer and a batch


def test_no_steps_ask_for_no_data():
    assert list(Replay(steps=0).batches(nn.Linear(5, 3), None)) == []


def test_scoring_leaves_batch_norm_and_modes_alone():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    model.train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, _, batches = data()
    next(iter(Replay(steps=1).batches(model, batches)))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False, True]


def test_divergence_and_empty_loaders_are_said():
    _, _, batches = data()
    model = nn.Linear(5, 3)
    with pytest.raises(ValueError, match="no batch"):
        list(Replay().batches(model, []))
    model.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        list(Replay().batches(model, batches))
