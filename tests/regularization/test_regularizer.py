import copy
import inspect
import io
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine import regularization
from refine.channels.groups import Graph, without
from refine.config.instantiate import public_functions
from refine.models.resnet import resnet20
from refine.models.simple_cnn import SimpleCNN
from refine.models.vit import vit
from refine.regularization import (
    Regularizer,
    bn_scale,
    group_norm,
    growing_reg,
    l1,
    none,
)
from refine.rng import random_state
from refine.sparsity.shrink import Smaller, reshape_, shapes, smaller_

KINDS = public_functions(regularization)
BY_CHANNEL = [bn_scale, group_norm, growing_reg]
pruning_library = pytest.importorskip("torch_pruning")


class Chain(nn.Module):
    """Two convolutions with norms and a linear layer, small enough to count in one's head."""

    def __init__(self, width=3):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 4, 1)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class ChannelsFirst(SimpleCNN):
    """SimpleCNN, but flattened with the channels outermost. torch-pruning takes every flattening
    for one of that order, and so the elements of SimpleCNN's for others' channels."""

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 2))
        x = F.relu(F.max_pool2d(self.bn2(self.conv2(x)), 2))
        x = F.relu(self.bn3(self.conv3(x))).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


CHAIN = torch.zeros(2, 1, 2, 2)
IMAGES = torch.zeros(2, 3, 32, 32)
NETWORKS = {"simple_cnn": (ChannelsFirst, "fc2"), "resnet20": (resnet20, "14")}


def seeded(make, seed=0):
    """A network with weights and gradients that are all unlike, batch norms' too."""
    torch.manual_seed(seed)
    model = make()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.grad = torch.randn_like(parameter)
    return model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def added(regularizer, model):
    """What the regularizer adds to each gradient; they are zeros before and after."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    regularizer.add_gradients_(model)
    found = gradients(model)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    return found


def started(kind, example=CHAIN, epoch=1, **settings):
    regularizer = Regularizer(kind, example, **settings)
    regularizer.begin_epoch(epoch)
    return regularizer


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def cut_(model, example, gone):
    """Takes channels ``gone[root]`` out; what is smaller now."""
    smaller = without(model, Graph(model, example).groups(), gone)
    smaller_(model, smaller)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return smaller


def strengths(regularizer):
    return regularizer.state_dict()["strengths"]


def theirs(model, answers, kind, **settings):
    """torch-pruning's pruner of that kind; it leaves the network in evaluation mode (trap 8)."""
    library, magnitude = pruning_library.pruner, pruning_library.importance.MagnitudeImportance
    pruner, importance = {
        bn_scale: (library.BNScalePruner, pruning_library.importance.BNScaleImportance()),
        group_norm: (library.GroupNormPruner, magnitude(p=2, normalizer="max")),
        growing_reg: (library.GrowingRegPruner, magnitude(p=2)),
    }[kind]
    return pruner(
        model,
        IMAGES[:1],
        importance=importance,
        ignored_layers=[model.get_submodule(answers)],
        **settings,
    )


def compared(model, kind):
    """The gradients to be compared: torch-pruning's GrowingRegPruner adds to a copy of those of
    batch norms (``grad.data[idxs].add_``), and so not at all; ours are tested by hand."""
    norms = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and kind is growing_reg
    }
    return {name: each for name, each in gradients(model).items() if name not in norms}


@pytest.mark.parametrize("kind", BY_CHANNEL)
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_torch_prunings(network, kind):
    make, answers = NETWORKS[network]
    ours, other = seeded(make), seeded(make)
    before = gradients(ours)
    theirs(other, answers, kind, reg=0.01).regularize(other)
    started(kind, IMAGES, strength=0.01).add_gradients_(ours)
    assert not same(gradients(ours), before)
    found, expected = compared(ours, kind), compared(other, kind)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_growth_is_torch_prunings(network):
    make, answers = NETWORKS[network]
    ours, other = seeded(make), seeded(make)
    regularizer = started(growing_reg, IMAGES, strength=0.01, growth=0.1)
    pruner = theirs(other, answers, growing_reg, reg=0.01, delta_reg=0.1)
    for epoch in (1, 2, 3):
        if epoch > 1:
            pruner.update_reg()
            regularizer.begin_epoch(epoch)
        for _ in range(2):
            regularizer.add_gradients_(ours)
            pruner.regularize(other)
        found, expected = compared(ours, growing_reg), compared(other, growing_reg)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.manual_seed(epoch)
        for one, two in zip(ours.parameters(), other.parameters(), strict=True):
            one.data += 0.1 * torch.randn_like(one)
            two.data.copy_(one)


def by_hand(model):
    """Squared norms of the channels of Chain's two groups."""
    return [
        sum(p.detach().square().movedim(k, 0).reshape(p.shape[k], -1).sum(1) for p, k in group)
        for group in (
            ((model.conv1.weight, 0), (model.bn1.weight, 0), (model.conv2.weight, 1)),
            ((model.conv2.weight, 0), (model.bn2.weight, 0), (model.fc.weight, 1)),
        )
    ]


def test_group_norm_by_hand():
    model = seeded(Chain)
    factors = []
    for squares in by_hand(model):
        norms = squares.sqrt()
        factors.append(2 ** (4 * (norms.max() - norms) / (norms.max() - norms.min())))
    one, two = factors
    found = added(started(group_norm, strength=0.5), model)
    expected = {
        "conv1.weight": one[:, None, None, None],
        "bn1.weight": one,
        "conv2.weight": one[None, :, None, None] + two[:, None, None, None],
        "bn2.weight": two,
        "fc.weight": two[None, :],
    }
    for name, factor in expected.items():
        torch.testing.assert_close(found[name], 0.5 * factor * model.get_parameter(name))
    assert one.min() == 1
    assert one.max() == pytest.approx(16)
    for name in found.keys() - expected.keys():
        assert not found[name].any(), name  # biases


def test_growing_reg_by_hand():
    model = seeded(Chain)
    regularizer = started(growing_reg, strength=0.5, growth=0.25)
    found = added(regularizer, model)
    torch.testing.assert_close(found["bn1.weight"], 0.5 * model.bn1.weight.data)
    torch.testing.assert_close(found["conv2.weight"], 1.0 * model.conv2.weight.data)
    regularizer.begin_epoch(2)
    for _ in range(2):  # once an epoch, not once a step
        found = added(regularizer, model)
    squares, _ = by_hand(model)
    one = 0.5 + 0.25 * (squares.max() - squares) / (squares.max() - squares.min())
    torch.testing.assert_close(strengths(regularizer)["conv1"], one)
    torch.testing.assert_close(found["bn1.weight"], one * model.bn1.weight.data)


def test_sign_penalties_by_hand():
    model = seeded(Chain)
    model.bn1.weight.data = torch.tensor([2.0, 0.0, -3.0])
    found = added(started(bn_scale, strength=0.25), model)
    assert found["bn1.weight"].tolist() == [0.25, 0, -0.25]
    assert {name for name in found if found[name].any()} == {"bn1.weight", "bn2.weight"}
    found = added(started(l1, None, strength=0.25), model)
    weights = {"conv1.weight", "conv2.weight", "fc.weight"}
    assert {name for name in found if found[name].any()} == weights
    for name in weights:
        assert torch.equal(found[name], 0.25 * model.get_parameter(name).data.sign())


def test_flattened_channels_are_the_networks_own():
    model = seeded(SimpleCNN)
    squares = model.conv3.weight.detach().square().sum((1, 2, 3)) + model.bn3.weight.data.square()
    squares += model.fc1.weight.detach().square().view(128, 64, 64).sum((0, 1))  # (N, H * W, C)
    norms = squares.sqrt()
    factor = 2 ** (4 * (norms.max() - norms) / (norms.max() - norms.min()))
    found = added(started(group_norm, IMAGES, strength=0.5), model)
    expected = 0.5 * factor * model.bn3.weight.data
    torch.testing.assert_close(found["bn3.weight"], expected, rtol=1e-4, atol=1e-5)


def test_layer_norms_belong_to_their_channels():
    # torch-pruning counts them in a channel's norm, but pulls at batch norms only.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    example = torch.zeros(1, 4)
    found = added(started(growing_reg, example, strength=0.5), model)
    assert torch.equal(found["1.weight"], 0.5 * model[1].weight.data)
    with pytest.raises(ValueError, match="no batch norm"):
        started(bn_scale, example).add_gradients_(model)


@pytest.mark.parametrize("kind", BY_CHANNEL)
def test_a_group_of_one_channel_is_left_alone(kind):
    model = seeded(lambda: Chain(1))
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if kind is group_norm:  # where torch-pruning makes NaN of it
        pruner = pruning_library.pruner.GroupNormPruner(
            twin,
            CHAIN[:1],
            importance=pruning_library.importance.MagnitudeImportance(p=2, normalizer="max"),
            ignored_layers=[twin.fc],
        )
        pruner.regularize(twin)
        assert twin.bn1.weight.grad.isnan().all()
    regularizer = started(kind)
    for epoch in (1, 2, 3):
        regularizer.begin_epoch(epoch)
        found = added(regularizer, model)
        assert all(each.isfinite().all() for each in found.values())
        assert not found["bn1.weight"].any()
        assert not found["conv1.weight"].any()
        assert found["bn2.weight"].all()


def test_where_all_groups_have_one_channel_nothing_happens():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 2)))
    for kind in (group_norm, growing_reg):
        found = added(started(kind, torch.zeros(1, 4)), model)
        assert not any(each.any() for each in found.values())


def test_equal_norms_are_pulled_at_alike():
    model = seeded(Chain)
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    found = added(started(group_norm, strength=1.0), model)
    assert found["conv1.weight"].unique().tolist() == [0.5]
    assert found["conv2.weight"].unique().tolist() == [1.0]
    regularizer = started(growing_reg, epoch=2, strength=1.0, growth=1.0)
    added(regularizer, model)
    assert strengths(regularizer)["conv1"].tolist() == [1, 1, 1]
    for parameter in model.parameters():
        parameter.data.zero_()  # and a network of zeros has nothing to be pulled at
    for kind in BY_CHANNEL:
        assert not any(each.any() for each in added(started(kind), model).values())


def test_grown_strengths_stay_with_the_channels_that_stay():
    # torch-pruning's update_regularizer sets them back; without it, its next step fails.
    model = seeded(resnet20)
    regularizer = started(growing_reg, IMAGES, strength=0.01, growth=0.1)
    for epoch in (1, 2, 3):
        regularizer.begin_epoch(epoch)
        regularizer.add_gradients_(model)
    before = strengths(regularizer)
    groups = Graph(model, IMAGES).groups()
    roots = [group.root for group in groups]
    gone = {root: range(n % 3, 8 + n, 3) for n, root in enumerate(roots) if n != 4}
    expected = {
        root: torch.stack([s for k, s in enumerate(before[root]) if k not in gone.get(root, ())])
        for root in roots
    }
    regularizer.shrunk_(model, cut_(model, IMAGES, gone))
    assert same(strengths(regularizer), expected)
    # Before the next step there may be another cut, or a checkpoint.
    regularizer.shrunk_(model, cut_(model, IMAGES, {root: [1] for root in roots}))
    expected = {root: torch.cat([each[:1], each[2:]]) for root, each in expected.items()}
    assert same(strengths(regularizer), expected)
    found = added(regularizer, model)
    bn = model.get_submodule("3.bn1").weight.data
    torch.testing.assert_close(found["3.bn1.weight"], expected["3.conv1"] * bn)
    regularizer.begin_epoch(4)
    found = added(regularizer, model)
    assert all((strengths(regularizer)[root] >= expected[root]).all() for root in roots)
    assert not same(strengths(regularizer), expected)


def test_strengths_go_along_with_a_transposed_convolution():
    model = seeded(lambda: nn.Sequential(nn.ConvTranspose2d(2, 5, 3), nn.Conv2d(5, 2, 1)))
    example = torch.zeros(1, 2, 4, 4)
    regularizer = started(growing_reg, example, epoch=2, growth=1.0)
    added(regularizer, model)
    before = strengths(regularizer)["0"]
    regularizer.shrunk_(model, cut_(model, example, {"0": [0, 3]}))
    assert torch.equal(strengths(regularizer)["0"], before[[1, 2, 4]])
    assert added(regularizer, model)["0.weight"].any()


@pytest.mark.parametrize("kind", [l1, bn_scale, group_norm])
def test_other_kinds_find_their_channels_again_after_a_cut(kind):
    model = seeded(SimpleCNN)
    regularizer = started(kind, IMAGES)
    regularizer.add_gradients_(model)
    regularizer.shrunk_(model, cut_(model, IMAGES, {"conv1": [0, 5], "conv3": [63]}))
    assert same(added(regularizer, model), added(started(kind, IMAGES), model))


def test_a_cut_that_it_was_not_told_of_is_an_error():
    for kind in (group_norm, growing_reg, bn_scale):
        model = seeded(Chain)
        regularizer = started(kind)
        regularizer.add_gradients_(model)
        cut_(model, CHAIN, {"conv1": [0]})
        with pytest.raises(RuntimeError, match="shrunk_"):
            regularizer.add_gradients_(model)


def through_a_file(state):
    """As a checkpoint gives it back: tensors, numbers and text only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("cut", [False, True])
def test_state_round_trip_is_bit_identical(kind, cut):
    settings = {"strength": 0.01, "growth": 0.1, "warmup": 4}
    model = seeded(resnet20)
    regularizer = Regularizer(kind, IMAGES, **settings)
    for epoch in (1, 2, 3):
        regularizer.begin_epoch(epoch, 3)
        for _ in range(2):
            regularizer.add_gradients_(model)
    if cut:
        regularizer.shrunk_(model, cut_(model, IMAGES, {"3.conv1": [2, 3], "0": [5]}))
    again = Regularizer(kind, IMAGES, **settings)
    again.load_state_dict(through_a_file(regularizer.state_dict()))
    loaded = resnet20()
    reshape_(loaded, shapes(model))
    loaded.load_state_dict(model.state_dict())
    for parameter in loaded.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for epoch in (4, 5):
        assert same(added(again, loaded), added(regularizer, model))
        again.begin_epoch(epoch, 3)
        regularizer.begin_epoch(epoch, 3)
    # Loaded, and cut before it has seen the network.
    third = Regularizer(kind, IMAGES, **settings)
    third.load_state_dict(through_a_file(regularizer.state_dict()))
    smaller = cut_(model, IMAGES, {"4.conv1": [1], "0": [0]})
    cut_(loaded, IMAGES, {"4.conv1": [1], "0": [0]})
    third.shrunk_(loaded, smaller)
    regularizer.shrunk_(model, smaller)
    assert same(added(third, loaded), added(regularizer, model))


def test_growth_that_is_due_is_in_the_state():
    model = seeded(Chain)
    regularizer = started(growing_reg, growth=0.1)
    regularizer.add_gradients_(model)
    regularizer.begin_epoch(2)
    again = Regularizer(growing_reg, CHAIN, growth=0.1)
    again.load_state_dict(regularizer.state_dict())
    assert same(added(again, model), added(regularizer, model))
    assert strengths(again)["conv1"].max() == pytest.approx(0.1001)
    # It was added: an epoch that begins once more, in the middle, does not add it again.
    third = Regularizer(growing_reg, CHAIN, growth=0.1)
    third.load_state_dict(again.state_dict())
    third.begin_epoch(2)
    added(third, model)
    assert same(strengths(third), strengths(again))


def test_a_state_of_another_network_is_refused():
    model = seeded(Chain)
    regularizer = started(growing_reg)
    regularizer.add_gradients_(model)
    other = Regularizer(growing_reg, CHAIN)
    other.load_state_dict(regularizer.state_dict())
    with pytest.raises(ValueError, match="3 channels of conv1, not 5"):
        other.add_gradients_(seeded(lambda: Chain(5)))


def pulls(regularizer, epochs, steps, told=True):
    """The share of the full strength at each step."""
    model, found = seeded(Chain), []
    for epoch in range(1, epochs + 1):
        regularizer.begin_epoch(epoch, *([steps] if told else []))
        for _ in range(steps):
            found.append(float(added(regularizer, model)["bn1.weight"].abs().max()))
    return found


@pytest.mark.parametrize("kind", [bn_scale, growing_reg])
def test_warm_up_rises_by_steps(kind):
    one = Regularizer(kind, CHAIN, strength=0.5, growth=0, warmup=2, start=1)
    full = pulls(Regularizer(kind, CHAIN, strength=0.5, growth=0), 1, 1)[0]
    shares = [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert pulls(one, 4, 2) == pytest.approx([full * share for share in shares])
    other = Regularizer(kind, CHAIN, strength=0.5, growth=0, warmup=2)
    by_epochs = [0.5, 0.5, 0.5, 1, 1, 1, 1, 1, 1]
    assert pulls(other, 3, 3, told=False) == pytest.approx([full * s for s in by_epochs])


@pytest.mark.parametrize("kind", [l1, *BY_CHANNEL])
def test_it_acts_between_start_and_stop(kind):
    regularizer = Regularizer(kind, CHAIN, start=2, stop=4, strength=0.5)
    model = seeded(Chain)
    assert not regularizer.active  # no epoch has begun
    acts = []
    for epoch in range(1, 7):
        regularizer.begin_epoch(epoch)
        found = any(each.any() for each in added(regularizer, model).values())
        assert found == regularizer.active
        acts.append(found)
    assert acts == [False, False, True, True, False, False]


def test_growth_begins_with_the_second_epoch_that_it_acts_in():
    regularizer = Regularizer(growing_reg, CHAIN, start=1, stop=3, strength=0.5, growth=0.25)
    model, found = seeded(Chain), []
    for epoch in range(1, 6):
        regularizer.begin_epoch(epoch)
        regularizer.add_gradients_(model)
        found.append(max(map(float, strengths(regularizer).get("conv1", [0]))))
    assert found == [0, 0.5, 0.75, 0.75, 0.75]


@pytest.mark.parametrize("kind", [l1, *BY_CHANNEL])
def test_gradients_are_added_to_and_weights_stay(kind):
    model = seeded(Chain)
    regularizer = started(kind, strength=0.5)
    before, weights = gradients(model), copy.deepcopy(model.state_dict())
    kept = [parameter.grad for parameter in model.parameters()]
    regularizer.add_gradients_(model)
    after = gradients(model)
    assert all(p.grad is g for p, g in zip(model.parameters(), kept, strict=True))
    assert same(model.state_dict(), weights)
    extra = added(regularizer, model)
    torch.testing.assert_close(after, {name: before[name] + extra[name] for name in before})


def test_none_does_nothing():
    model = seeded(Chain)
    before = gradients(model)
    regularizer = Regularizer(none)
    for epoch in (1, 2):
        regularizer.begin_epoch(epoch)
        regularizer.prepare(model)
        regularizer.add_gradients_(model)
    assert same(gradients(model), before)
    assert Regularizer().kind is none


@pytest.mark.parametrize("kind", BY_CHANNEL)
def test_finding_the_channels_leaves_everything_as_it_was(kind):
    model = seeded(resnet20).train()
    model[3].bn1.eval()
    modes = [module.training for module in model.modules()]
    tensors, before = copy.deepcopy(model.state_dict()), gradients(model)
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    drawn = random_state()
    started(kind, IMAGES).prepare(model)
    assert same(model.state_dict(), tensors)
    assert same(gradients(model), before)
    assert [module.training for module in model.modules()] == modes
    now = random_state()
    assert torch.equal(now["torch"], drawn["torch"])
    assert now["python"] == drawn["python"]
    assert torch.equal(now["numpy"][1], drawn["numpy"][1])
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parameters_and_those_without_a_gradient_are_left_out():
    model = seeded(Chain)
    regularizers = [started(kind) for kind in (l1, *BY_CHANNEL)]
    for regularizer in regularizers:
        regularizer.prepare(model)
    model.bn1.weight.requires_grad_(False)
    model.conv1.weight.grad = None
    for regularizer in regularizers:
        found = added(regularizer, model)
        assert model.conv1.weight.grad is None
        assert not found["bn1.weight"].any()
        assert any(each.any() for each in found.values())


def test_a_group_with_a_frozen_layer_is_left_out():
    model = seeded(Chain)
    for parameter in model.conv1.parameters():
        parameter.requires_grad_(False)
    for kind in BY_CHANNEL:
        found = added(started(kind), model)
        assert not found["bn1.weight"].any()
        assert found["bn2.weight"].all()
    assert not added(started(l1), model)["conv1.weight"].any()


def test_sparse_gradients_are_left_out():
    model = seeded(Chain)
    model.conv2.weight.grad = model.conv2.weight.grad.to_sparse()
    before = model.conv2.weight.grad.to_dense()
    for kind in (l1, *BY_CHANNEL):
        started(kind).add_gradients_(model)
        assert torch.equal(model.conv2.weight.grad.to_dense(), before)


def test_protected_layers_are_not_pulled_at():
    model = seeded(Chain)
    for name in ("conv1", "conv1.weight"):
        for kind in (l1, *BY_CHANNEL):
            found = added(started(kind, protected=[name]), model)
            assert not found["conv1.weight"].any()
            assert not found["bn1.weight"].any()
            assert found["conv2.weight"].all() or kind is bn_scale


def test_cut_weights_are_not_pulled_at():
    model = seeded(Chain)
    model.conv2.weight.data[:, 1] = 0
    for kind in (l1, *BY_CHANNEL):
        assert not added(started(kind, strength=1.0), model)["conv2.weight"][:, 1].any()


def test_parameters_without_a_layer_are_left_alone():
    model = seeded(lambda: vit(image_shape=(3, 8, 8)))
    example = torch.zeros(1, 3, 8, 8)
    of_layers = {f"{path}.weight" for path, module in model.named_modules()}
    for kind in (group_norm, growing_reg):
        found = added(started(kind, example), model)
        assert {name for name in found if found[name].any()} <= of_layers
    with pytest.raises(ValueError, match="no batch norm"):
        started(bn_scale, example).prepare(model)


def test_copies_and_other_precisions_and_layouts():
    model = seeded(SimpleCNN)
    for kind in (l1, *BY_CHANNEL):
        regularizer = started(kind, IMAGES, strength=0.5)
        expected = added(regularizer, model)
        twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
        for parameter, original in zip(twin.parameters(), model.parameters(), strict=True):
            parameter.grad = torch.zeros_like(original)
        torch.testing.assert_close(added(regularizer, twin), expected)
        torch.testing.assert_close(added(copy.deepcopy(regularizer), twin), expected)
        half = copy.deepcopy(model).bfloat16()
        for name, gradient in added(regularizer, half).items():
            assert gradient.dtype == torch.bfloat16
            torch.testing.assert_close(gradient.float(), expected[name], rtol=0.05, atol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_numbers_follow_the_network_to_its_device():
    for kind in (l1, *BY_CHANNEL):
        model = seeded(SimpleCNN)
        regularizer = started(kind, IMAGES, epoch=2, strength=0.5)
        expected = added(regularizer, model)
        found = added(regularizer, model.cuda())
        torch.testing.assert_close({n: g.cpu() for n, g in found.items()}, expected)


def test_channels_are_pulled_to_zero_and_less_of_the_others():
    torch.manual_seed(0)
    model = Chain(16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regularizer = Regularizer(group_norm, CHAIN, strength=0.05)
    inputs = torch.randn(64, 1, 2, 2)
    labels = (inputs.mean((1, 2, 3)) > 0).long()
    for epoch in range(1, 4):
        regularizer.begin_epoch(epoch, 20)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            regularizer.add_gradients_(model)
            optimizer.step()
    norms = by_hand(model)[0].sqrt()
    assert norms.min() < 0.1 * norms.max()


def test_settings_are_checked():
    for settings in (
        {"strength": -1.0},
        {"strength": float("nan")},
        {"growth": -1.0},
        {"warmup": -1},
        {"start": -1},
        {"start": 2, "stop": 2},
    ):
        with pytest.raises(ValueError, match=next(reversed(settings))):
            Regularizer(group_norm, CHAIN, **settings)
    with pytest.raises(ValueError, match="example"):
        Regularizer(group_norm)
    with pytest.raises(ValueError, match="no channels can be pruned"):
        started(group_norm, torch.zeros(1, 3)).prepare(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="no prunable weight"):
        started(l1).prepare(nn.BatchNorm2d(3))


def test_kinds_have_one_signature():
    assert list(KINDS) == ["bn_scale", "group_norm", "growing_reg", "l1", "none"]
    for kind in KINDS.values():
        assert list(inspect.signature(kind).parameters) == ["parameters", "weights", "strength"]


def test_shrinking_of_nothing_changes_nothing():
    model = seeded(Chain)
    regularizer = started(growing_reg, epoch=2)
    before = added(regularizer, model)
    regularizer.shrunk_(model, Smaller({}))
    assert same(added(regularizer, model), before)
