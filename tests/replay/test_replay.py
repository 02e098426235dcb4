import io
from collections import Counter
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine.replay import Generative, Replay, ReplaySource, Training, as_replay
from refine.replay import priority as priorities
from refine.replay.class_means import ClassMeans
from refine.replay.examined import Examined
from refine.replay.priority import disagreement, high_loss, uniform
from refine.replay.sampling import Draw, proportional, shuffled
from refine.replay.storage import Candidates, class_balanced, herding, highest, reservoir
from refine.replay.sum_tree import SumTree

STORAGES = (highest, class_balanced, herding, reservoir)


def data(count=100, classes=3, seed=3):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 5, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return images, labels, list(zip(images.split(7), labels.split(7), strict=True))


def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def rows(batches):
    return [tuple(row.tolist()) for batch in batches for row in batch.inputs]


def numbered(start, stop):
    """A stream of examples that are their own numbers."""
    numbers = torch.arange(start, stop)
    inputs = numbers[:, None].expand(-1, 5).float()
    return list(zip(inputs.split(7), numbers.remainder(3).split(7), strict=True))


def first_column(batches):
    return [int(row[0]) for row in rows(batches)]


# The memory and its batches


def test_high_loss_keeps_the_highest_losses_of_all():
    images, labels, batches = data()
    model = nn.Linear(5, 3)
    losses = F.cross_entropy(model(images), labels, reduction="none")
    hardest = {tuple(row.tolist()) for row in images[losses.topk(10).indices]}
    replay = Replay(high_loss, buffer_size=10, steps=4, batch_size=5)
    seen = rows(replay.batches(model, batches))
    assert len(seen) == 20
    assert set(seen) == hardest
    assert set(seen[:10]) == hardest  # a whole pass through the buffer before the second
    assert replay.examples == 10
    assert replay.bytes == 10 * (5 * 4 + 8 + 8)  # inputs, target, rank


def test_uniform_is_a_draw_without_repetition_that_follows_the_seed():
    images, _, batches = data()

    def drawn(seed):
        replay = Replay(uniform, buffer_size=50, steps=1, batch_size=50, seed=seed)
        return set(rows(replay.batches(nn.Linear(5, 3), batches)))

    assert len(drawn(1)) == 50
    assert drawn(1) == drawn(1) != drawn(2)
    # every image is drawn about as often: 200 draws of half of them, 100 +- 6 standard deviations
    counts = dict.fromkeys((tuple(row.tolist()) for row in images), 0)
    for seed in range(200):
        for row in drawn(seed):
            counts[row] += 1
    assert all(abs(count - 100) < 6 * 7.1 for count in counts.values())


@pytest.mark.parametrize("storage", STORAGES)
def test_the_memory_is_bounded_while_it_fills(storage, monkeypatch):
    joined = []
    cat = torch.cat
    monkeypatch.setattr(
        torch, "cat", lambda parts: joined.append(sum(map(len, parts))) or cat(parts)
    )
    _, _, batches = data(1000)
    replay = Replay(uniform, storage, buffer_size=20, steps=1, batch_size=64)
    for _ in range(3):
        ((images, labels, *_),) = replay.batches(nn.Linear(5, 3), batches)
        assert len(images) == len(labels) == replay.examples == 20
        replay.begin_task()
    assert max(joined) < 2 * 20 + 7  # twice the buffer and a batch


def test_what_was_in_memory_is_not_held_while_another_comes():
    held = []

    def watched(batches):
        for batch in batches:
            held.append(replay.examples)
            yield batch

    replay = Replay(uniform, reservoir, buffer_size=20, steps=1)
    for _ in range(2):
        replay.keep(nn.Linear(5, 3), watched(data()[2]))
    assert set(held) == {0}


@pytest.mark.parametrize("sampling", [shuffled, proportional])
def test_a_place_is_the_same_example_all_along(sampling):
    replay = Replay(sampling=sampling, buffer_size=20, steps=8, batch_size=10)
    known = {}
    for inputs, targets, weights, places in replay.batches(network(), data()[2]):
        assert places.dtype == torch.int64
        assert 0 <= int(places.min()) <= int(places.max()) < 20
        assert (weights is None) == (sampling is shuffled)
        for place, row, target in zip(places.tolist(), inputs, targets, strict=True):
            assert known.setdefault(place, (row.tolist(), int(target))) == (
                row.tolist(),
                int(target),
            )


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sampling", [shuffled, proportional])
def test_no_steps_ask_for_no_data_and_no_lot(storage, sampling):
    replay = Replay(storage=storage, sampling=sampling, steps=0)
    before = replay.generator.get_state()
    assert list(replay.batches(nn.Linear(5, 3), None)) == []
    replay.keep(nn.Linear(5, 3), None)
    replay.begin_task()
    assert replay.generator.get_state().equal(before)
    assert replay.examples == replay.bytes == 0


@pytest.mark.parametrize("priority", [getattr(priorities, name) for name in priorities.__all__])
@pytest.mark.parametrize("storage", STORAGES)
def test_scoring_leaves_batch_norm_modes_hooks_and_generators_alone(priority, storage):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    model.train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    replay = Replay(priority, storage, proportional, steps=2, batch_size=10)
    list(replay.batches(model, data()[2]))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, True, False, True]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.get_rng_state().equal(drawn)


def test_divergence_and_empty_loaders_are_said():
    _, _, batches = data()
    model = nn.Linear(5, 3)
    with pytest.raises(ValueError, match="no batch"):
        list(Replay().batches(model, []))
    with pytest.raises(ValueError, match="no number for each example"):
        list(
            Replay(loss=lambda outputs, targets, reduction: outputs.mean()).batches(model, batches)
        )
    with pytest.raises(ValueError, match="no number for each example"):
        list(Replay(lambda examined, generator: torch.zeros(())).batches(model, batches))
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3))
    model[0].weight.data.fill_(float("nan"))
    for settings in ({}, {"storage": herding}, {"storage": reservoir, "sampling": proportional}):
        with pytest.raises(ValueError, match="not finite"):
            list(Replay(**settings).batches(model, batches))


def test_what_a_choice_needs_is_said():
    _, _, batches = data()
    with pytest.raises(ValueError, match=r"selection=disagreement needs .* dropout"):
        list(Replay(disagreement).batches(nn.Linear(5, 3), batches))
    silent = nn.Sequential(nn.Dropout(0.0), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="dropout"):  # a probability of 0 drops nothing
        list(Replay(disagreement).batches(silent, batches))
    with pytest.raises(ValueError, match="linear layer"):
        list(Replay(storage=herding).batches(nn.Flatten(), batches))
    with pytest.raises(ValueError, match="none apart"):
        list(Replay(priorities.entropy).batches(nn.Linear(5, 1), batches))
    regression = [(images, images.sum(1)) for images, _ in batches]
    for storage in (class_balanced, herding):
        with pytest.raises(ValueError, match="class number"):
            list(Replay(uniform, storage).batches(nn.Linear(5, 1), regression))


def test_a_storage_and_a_priority_of_ones_own_are_plain_functions():
    def by_first_number(examined, generator):
        return -examined.logits()[:, 0]

    def every_other(candidates, capacity):
        return candidates.priorities.argsort(descending=True)[: 2 * capacity : 2]

    model = nn.Identity()
    replay = Replay(by_first_number, every_other, buffer_size=3, steps=1, batch_size=3)
    batches = [(torch.arange(5.0)[:, None].expand(-1, 2), torch.zeros(5, dtype=torch.long))]
    assert sorted(first_column(replay.batches(model, batches))) == [0, 2, 4]


# Priorities


def examined(model, count=20):
    images, labels, _ = data(count)
    return Examined(model.eval(), images, labels, torch.Generator().manual_seed(1))


def test_priorities_are_what_their_formulas_say():
    model = network().eval()
    images, labels, _ = data(20)
    draw = torch.Generator()
    with torch.no_grad():
        each = model(images).softmax(1)
        found = {
            name: getattr(priorities, name)(examined(model), draw)
            for name in ("high_loss", "entropy", "margin")
        }
    for row, (probabilities, label) in enumerate(zip(each.tolist(), labels.tolist(), strict=True)):
        _, middle, most = sorted(probabilities)
        assert found["high_loss"][row] == pytest.approx(-np.log(probabilities[label]), rel=1e-4)
        assert found["entropy"][row] == pytest.approx(
            -sum(p * np.log(p) for p in probabilities), rel=1e-4
        )
        assert found["margin"][row] == pytest.approx(middle - most, abs=1e-5)


def test_a_sure_network_has_no_entropy():
    images = torch.tensor([[1000.0, 0.0, -1000.0], [1.0, 1.0, 1.0]])
    asked = Examined(nn.Identity(), images, torch.zeros(2), torch.Generator())
    assert priorities.entropy(asked, torch.Generator()).tolist() == pytest.approx([0, np.log(3)])


def test_disagreement_is_the_information_between_prediction_and_mask():
    model = network()
    with torch.no_grad():
        found = disagreement(examined(model), torch.Generator())
        passes = examined(model).under_dropout(8)  # from the same seed
        assert passes.shape == (8, 20, 3)
        assert not passes[0].equal(passes[1])
        again = disagreement(examined(model), torch.Generator())
    assert found.equal(again)
    assert (found > 0).all()
    each = passes.softmax(2).double()
    mean = each.mean(0)
    expected = -(mean * mean.log()).sum(1) + (each * each.log()).sum(2).mean(0)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_only_dropout_is_as_in_training():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    with torch.no_grad():
        model[2].weight.zero_()  # nothing that is dropped matters
        passes = examined(model).under_dropout(3)
    assert passes[0].equal(passes[1])
    assert not model[0].running_mean.any()
    assert not any(module.training for module in model.modules())


def test_features_are_what_goes_into_the_linear_layer_that_is_called_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.unused = nn.Linear(4, 3), nn.Linear(5, 4), nn.Linear(2, 2)

        def forward(self, inputs):
            return self.last(self.first(inputs).relu())

    model = Backwards()
    with torch.no_grad():
        asked = examined(model)
        assert asked.features().equal(model.first(data(20)[0]).relu())
        assert asked.logits().equal(model(data(20)[0]))


def test_the_network_is_asked_once_and_only_if_anything_is():
    calls = []

    class Counted(nn.Linear):
        def forward(self, inputs):
            calls.append(len(inputs))
            return super().forward(inputs)

    _, _, batches = data()
    for settings, passes in (
        ({"priority": uniform}, 0),
        ({"priority": high_loss, "storage": reservoir}, 0),
        ({"priority": high_loss}, 1),
        ({"priority": high_loss, "storage": herding}, 1),
    ):
        calls.clear()
        Replay(**settings).keep(Counted(5, 3), batches)
        assert sum(calls) == passes * 100, settings


# Storages


def candidates(count=60, classes=4, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    # the higher its number, the rarer a class
    targets = (torch.rand(count, generator=generator) ** 2 * classes).long()
    return Candidates(targets, torch.randn(count, generator=generator), **more)


@pytest.mark.parametrize("capacity", [1, 5, 17, 60, 100])
def test_every_prefix_is_balanced_and_has_the_best_of_every_class(capacity):
    given = candidates()
    kept = class_balanced(given, capacity)
    assert len(set(kept.tolist())) == len(kept) == min(capacity, 60)
    have = Counter(given.targets.tolist())
    for end in range(1, len(kept) + 1):
        counts = Counter(given.targets[kept[:end]].tolist())
        most = max(counts.values())
        # a class may lag by one, or because it has no more
        assert all(counts[number] >= min(most - 1, have[number]) for number in have)
    for number in have:
        mine = given.priorities[given.targets == number].sort(descending=True).values
        chosen = given.priorities[kept[given.targets[kept] == number]]
        assert chosen.equal(mine[: len(chosen)])


def naive_herding(features, mean, count):
    left, chosen = list(range(len(features))), []
    for _ in range(count):
        distances = [np.linalg.norm(mean - features[[*chosen, index]].mean(0)) for index in left]
        chosen.append(left.pop(int(np.argmin(distances))))
    return chosen


def test_herding_is_the_greedy_choice_and_takes_turns():
    features = F.normalize(torch.randn(60, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    means = ClassMeans()
    targets = candidates().targets
    means.add(features[:30], targets[:30])
    means.add(features[30:], targets[30:])
    given = candidates(features=features, means=means)
    kept = herding(given, 21)
    assert given.targets[kept].tolist() == given.targets[class_balanced(given, 21)].tolist()
    for number in range(4):
        members = (targets == number).nonzero().flatten()
        mean = features[members].double().mean(0)
        assert means[number].tolist() == pytest.approx(mean.tolist(), abs=1e-6)
        chosen = kept[targets[kept] == number]
        expected = naive_herding(features[members].double().numpy(), mean.numpy(), len(chosen))
        assert chosen.tolist() == members[expected].tolist()
    assert herding(given, 10).equal(kept[:10])  # a smaller memory is a prefix


def test_herding_goes_by_the_mean_of_everything_seen():
    """Also of what has already been dropped: better than a random choice."""
    images, labels, batches = data(400, classes=2)
    model = nn.Linear(5, 2)
    features = F.normalize(images, dim=1)

    def distance(storage):
        replay = Replay(uniform, storage, buffer_size=20, steps=1, batch_size=20)
        ((inputs, targets, *_),) = replay.batches(model, batches)
        kept = F.normalize(inputs, dim=1)
        return sum(
            float((kept[targets == n].mean(0) - features[labels == n].mean(0)).norm())
            for n in (0, 1)
        )

    assert distance(herding) < distance(class_balanced) / 3


def test_reservoir_keeps_every_place_of_the_stream_equally_likely():
    runs, length, size = 400, 90, 15
    counts = Counter()
    for seed in range(runs):
        replay = Replay(uniform, reservoir, buffer_size=size, steps=1, batch_size=size, seed=seed)
        model = nn.Linear(5, 3)
        list(replay.batches(model, numbered(0, 20)))
        replay.keep(model, numbered(20, 75))
        replay.begin_task()  # closes nothing
        counts.update(first_column(replay.batches(model, numbered(75, length))))
    assert sum(counts.values()) == runs * size
    expected = runs * size / length
    deviation = sqrt(runs * size / length * (1 - size / length))
    each = [counts[number] for number in range(length)]
    assert max(abs(count - expected) for count in each) < 5 * deviation
    squares = sum(((count - expected) / deviation) ** 2 for count in each)
    assert abs(squares - length) < 5 * sqrt(2 * length)  # chi-square
    for part in (range(20), range(20, 75), range(75, 90)):  # a bias of a cycle or a task
        found = sum(counts[number] for number in part)
        assert abs(found - expected * len(part)) < 5 * deviation * sqrt(len(part))


# Tasks


@pytest.mark.parametrize("storage", [highest, class_balanced, herding])
def test_tasks_share_the_memory_and_old_ones_keep_their_best(storage):
    def by_first_number(examined, generator):
        return examined.logits()[:, 0] * 0 + values.pop(0)

    values = []
    model = nn.Linear(5, 3)
    replay = Replay(by_first_number, storage, buffer_size=12, steps=1, batch_size=12)
    kept = []
    for task in range(4):
        replay.begin_task()
        for _ in range(2):  # two cycles in a task
            values[:] = torch.randn(20, generator=torch.Generator().manual_seed(task)).tolist()
            seen = first_column(replay.batches(model, numbered(100 * task, 100 * task + 100)))
        kept.append(seen)
        per_task = Counter(number // 100 for number in seen)
        assert per_task == dict.fromkeys(range(task + 1), 12 // (task + 1))
    for task in range(4):
        sets = [{n for n in seen if n // 100 == task} for seen in kept[task:]]
        assert all(after <= before for before, after in pairwise(sets))
    if storage is not highest:  # three classes, three places
        assert {n % 100 % 3 for n in kept[-1] if n // 100 == 0} == {(n % 3) for n in range(3)}


def test_a_closed_part_is_cut_down_to_its_best():
    """Ten examples of priority 0 to 9; then another task comes: 5 places each."""

    def by_input(examined, generator):
        return examined.logits()[:, 0]

    replay = Replay(by_input, buffer_size=10, steps=1, batch_size=10)
    model = nn.Identity()
    order = torch.tensor([3.0, 9, 1, 7, 5, 0, 8, 2, 6, 4])
    stream = [(order[:, None].expand(-1, 2), torch.zeros(10, dtype=torch.long))]
    replay.keep(model, stream)
    replay.begin_task()
    replay.begin_task()  # a task without a fill has no part
    assert replay.examples == 10  # cut down only when another part comes
    other = [(100 + order[:, None].expand(-1, 2), torch.zeros(10, dtype=torch.long))]
    found = sorted(first_column(replay.batches(model, other)))
    assert found == [5, 6, 7, 8, 9, 105, 106, 107, 108, 109]


def test_a_task_has_the_room_that_others_leave_and_at_least_one_place():
    model = nn.Linear(5, 3)
    replay = Replay(uniform, buffer_size=10, steps=1, batch_size=10)
    replay.keep(model, numbered(0, 2))
    replay.begin_task()
    replay.keep(model, numbered(0, 50))
    assert replay.examples == 10  # 2 and 8
    for task in range(2, 15):
        replay.begin_task()
        replay.keep(model, numbered(0, 50))
        assert replay.examples <= max(10, task + 1)
    assert replay.examples == 15


# Sampling


def test_a_sum_tree_is_what_a_list_of_sizes_would_be():
    draw = np.random.default_rng(0)
    for count in (1, 2, 5, 16, 37):
        tree, sizes = SumTree(count), np.zeros(count)
        for _ in range(30):
            places = draw.integers(count, size=draw.integers(1, 9))
            tree[places] = values = draw.random(len(places)) * draw.integers(2, size=len(places))
            for place, value in zip(places, values, strict=True):
                sizes[place] = value
            assert tree.total == pytest.approx(sizes.sum())
            assert tree[np.arange(count)].tolist() == sizes.tolist()
            if tree.total:
                offsets = draw.random(50) * tree.total
                expected = np.searchsorted(sizes.cumsum(), offsets, side="right")
                assert tree.find(offsets).tolist() == expected.tolist()
                ends = tree.find(np.array([0.0, tree.total, np.nextafter(tree.total, 9)]))
                assert (sizes[ends] > 0).all()  # also where rounding went too far


def drawn(losses, steps, size, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    draw = Draw(len(losses), size, steps, generator, lambda places: losses[places], **settings)
    return list(proportional(draw))


def test_examples_are_drawn_in_proportion_to_a_power_of_their_loss():
    losses = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 8.0, 0.3, 0.3])
    for alpha in (0.0, 0.6, 1.0):
        batches = drawn(losses, 2000, 4, alpha=alpha)
        counts = torch.cat([places for places, _ in batches]).bincount(minlength=8)
        share = (losses.double() + 1e-6) ** alpha
        expected = 8000 * share / share.sum()
        # slices make it no less even than 8000 draws apart from each other
        assert (counts - expected).abs().le(5 * expected.sqrt() + 3).all()


def test_every_slice_of_the_whole_is_drawn_from_once():
    for places, _ in drawn(torch.ones(12), 20, 12):
        assert places.tolist() == list(range(12))


def test_weights_undo_the_preference_for_great_losses():
    draw = torch.Generator().manual_seed(4)
    losses = torch.rand(50, generator=draw) * 5
    values = torch.randn(50, generator=draw).double() + losses
    share = (losses.double() + 1e-6) ** 0.6
    share /= share.sum()
    batches = drawn(losses, 3000, 10, alpha=0.6, beta=1.0)
    unweighted = torch.stack([values[places].mean() for places, _ in batches]).mean()
    assert abs(unweighted - (share * values).sum()) < 0.05  # the biased mean
    corrected = []
    for places, weights in batches:
        assert float(weights.max()) == 1
        before = 1 / (50 * share[places])
        assert weights.tolist() == pytest.approx((before / before.max()).tolist(), rel=1e-4)
        corrected.append((weights.double() * before.max() * values[places]).mean())
    corrected = torch.stack(corrected)
    error = corrected.std() / sqrt(len(corrected))
    assert abs(corrected.mean() - values.mean()) < 5 * error
    assert abs(unweighted - values.mean()) > 20 * error
    for places, weights in drawn(losses, 5, 10, alpha=0.6, beta=0.5):
        before = (50 * share[places]) ** -0.5
        assert weights.tolist() == pytest.approx((before / before.max()).tolist(), rel=1e-4)


def test_priorities_are_renewed_once_a_batch_was_trained_on():
    losses, asked = torch.ones(6), []

    def now(places):
        asked.append(places.tolist())
        return losses[places]

    batches = proportional(Draw(6, 3, 40, torch.Generator().manual_seed(0), now, alpha=1.0))
    first, _ = next(batches)
    assert asked == [[0, 1, 2], [3, 4, 5]]
    losses[:] = 0.0  # all is learned, but only what was drawn is known to be
    second, _ = next(batches)
    assert asked[2:] == [first.tolist()]
    assert not set(first.tolist()) & set(second.tolist())
    list(batches)
    assert len(asked) == 2 + 39  # not after the last


def test_what_is_learned_is_drawn_less():
    """In a training loop: the network learns one half of the memory by heart."""
    model = nn.Linear(5, 3)
    _, labels, batches = data(40)
    replay = Replay(uniform, sampling=proportional, buffer_size=40, steps=200, alpha=1.0)
    replay.batch_size = 8
    known, counts = None, Counter()
    for step, (_, _, _, places) in enumerate(replay.batches(model, batches)):
        if step == 0:
            with torch.no_grad():
                model.weight.zero_()
                model.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
            known = set((labels == 0).nonzero().flatten().tolist())
        if step > 100:
            counts.update(place in known for place in places.tolist())
    assert counts[True] < counts[False] / 100


# What is saved


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(found, expected):
    return all(
        (a is None and b is None) or a.equal(b)
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("tasks", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sampling", [shuffled, proportional])
def test_a_loaded_replay_continues_to_the_bit(storage, sampling, tasks):
    def replay():
        return Replay(
            uniform, storage, sampling, buffer_size=20, steps=5, batch_size=8, stream=tasks
        )

    model, before, again = network(), replay(), replay()
    list(before.batches(model, numbered(0, 50)))
    if tasks:
        before.begin_task()
        list(before.batches(model, numbered(50, 100)))
    again.load_state_dict(saved(before.state_dict()))
    if tasks:
        assert again.examples == before.examples
        for each in (before, again):
            each.begin_task()
    for stream in (numbered(100, 140), numbered(140, 150)):
        expected = list(before.batches(model, stream))
        assert len(expected) == 5
        assert same(list(again.batches(model, stream)), expected)
    assert again.bytes == before.bytes


def test_a_memory_that_is_filled_anew_is_not_saved():
    model, replay = network(), Replay(buffer_size=20, steps=1)
    list(replay.batches(model, data()[2]))
    assert replay.examples == 20
    assert replay.state_dict()["memory"] == {"closed": [], "current": {}}
    replay.begin_task()
    assert len(replay.state_dict()["memory"]["closed"]) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sampling", [shuffled, proportional])
def test_it_all_works_on_a_gpu_and_loads_from_the_cpu(storage, sampling):
    model = network().cuda()
    stream = [(images.cuda(), labels.cuda()) for images, labels in data()[2]]
    settings = {"buffer_size": 20, "steps": 3, "batch_size": 8, "stream": True}
    replay = Replay(disagreement, storage, sampling, **settings)
    drawn = torch.cuda.get_rng_state()
    replay.keep(model, stream)
    replay.begin_task()
    file = io.BytesIO()
    torch.save(replay.state_dict(), file)
    file.seek(0)
    again = Replay(disagreement, storage, sampling, **settings)
    again.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    expected = list(replay.batches(model, stream))
    assert all(tensor.is_cuda for batch in expected for tensor in batch if tensor is not None)
    assert same(list(again.batches(model, stream)), expected)
    assert torch.cuda.get_rng_state().equal(drawn)


# The control


class Source:
    """Passes over ten numbers in an order of its own, three at a time."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(1)

    def __iter__(self):
        for part in torch.randperm(10, generator=self.generator).split(3):
            yield part[:, None].float(), part


def test_ordinary_training_continues_over_passes():
    model, control = nn.Linear(1, 10), Training(Source(), 7)
    batches = list(control.batches(model, None))
    assert [len(batch.inputs) for batch in batches] == [3, 3, 3, 1, 3, 3, 3]
    assert sorted(torch.cat([batch.targets for batch in batches[:4]]).tolist()) == list(range(10))
    assert all(batch.weights is None and batch.places is None for batch in batches)
    control.keep(model, None)
    control.begin_task()
    assert control.examples == control.bytes == 0
    again = Training(Source(), 7)
    again.load_state_dict(saved(control.state_dict()))
    assert same(list(again.batches(model, None)), list(control.batches(model, None)))
    assert list(Training(None, 0).batches(model, None)) == []
    with pytest.raises(ValueError, match="no batch"):
        list(Training([], 1).batches(model, None))
    plain = Training(batches, 1)
    assert plain.state_dict() == {}
    plain.load_state_dict({})


def test_a_reservoirs_state_has_the_names_that_it_always_had():
    replay = Replay(uniform, reservoir, buffer_size=10, steps=1, batch_size=10)
    replay.keep(nn.Linear(5, 3), numbered(0, 50))
    state = replay.state_dict()
    assert list(state["memory"]["current"]) == ["inputs", "lots", "ranks", "targets"]
    again = Replay(uniform, reservoir, buffer_size=10, steps=1, batch_size=10)
    again.load_state_dict(state)
    replay.keep(nn.Linear(5, 3), numbered(50, 100))
    again.keep(nn.Linear(5, 3), numbered(50, 100))
    for name, column in replay.state_dict()["memory"]["current"].items():
        assert again.state_dict()["memory"]["current"][name].equal(column)


# Functions


def test_a_plain_function_is_a_replay_that_keeps_nothing():
    def twice(model, batches):
        yield from [*batches, *batches]

    replay = as_replay(twice)
    assert isinstance(replay, ReplaySource)
    assert list(replay.batches(None, [1, 2])) == [1, 2, 1, 2]
    assert (replay.examples, replay.bytes, replay.state_dict()) == (0, 0, {})
    replay.keep(None, None)
    replay.begin_task()
    replay.load_state_dict({})
    assert as_replay(replay) is replay


def test_every_replay_is_a_replay_source():
    for replay in (Replay(), Generative(1, 1, 1), Training([], 1)):
        assert as_replay(replay) is replay
