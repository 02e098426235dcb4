"""Channels taken out of networks: the library's class, and what it carries along."""

import copy
import logging
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from refine import Distillation, RuntimeRefinement
from refine.channels import criteria
from refine.channels.groups import Graph
from refine.channels.plan import Structured
from refine.config import choices
from refine.distillation import Ema
from refine.evaluation.cost import macs
from refine.models import mobilenet_v2, resnet20, resnet56, simple_cnn, vgg16, vgg19, vit
from refine.recovery import WeightRewind
from refine.replay import Replay
from refine.sparsity.shrink import shapes
from refine.stored.network_file import Description, load_model, write

pytest.importorskip("torch_pruning")
SHAPE = (3, 32, 32)
NETWORKS = {
    make.__name__: make
    for make in (simple_cnn, resnet20, resnet56, vgg16, vgg19, mobilenet_v2, vit)
}


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(16, *SHAPE, generator=generator)
    return pictures, torch.arange(16) % 10


def by_macs(criterion=criteria.magnitude, **settings):
    return Structured(criterion, unit="macs", **settings)


def trained(model, images, optimizer, steps=3):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[0]), images[1])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_at_half_its_macs_trains_is_saved_and_answers_the_same(
    name, images, tmp_path
):
    torch.manual_seed(0)
    model = NETWORKS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    dense = macs(model, SHAPE)
    refinement = RuntimeRefinement(model, by_macs(downscale_factor=1.0), replay=Replay(steps=0))
    report = refinement.refinement_cycle([images], 0.5)
    assert report.macs == macs(model, SHAPE) <= dense / 2 < 1.1 * report.macs
    trained(model, images, optimizer, steps=1)
    model.eval()
    write(tmp_path / "net.safetensors", model, Description(name))
    again = load_model(tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(model(images[0]), again(images[0]))
    assert shapes(again) == shapes(model)


@pytest.mark.parametrize("kind", ["sgd", "adam", "unseen"])
def test_the_optimizer_lives_on_and_the_loss_goes_down(kind, images):
    torch.manual_seed(0)
    model = resnet20()
    if kind == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if kind != "unseen":  # one that has not stepped is found at its next step
        trained(model, images, optimizer)
    refinement = RuntimeRefinement(model, by_macs(), replay=Replay(steps=0))
    refinement.refinement_cycle([images], 0.5)
    losses = trained(model, images, optimizer, steps=12)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert all(
        value.shape == parameter.shape
        for parameter, state in optimizer.state.items()
        for value in state.values()
        if torch.is_tensor(value) and value.dim()
    )
    assert losses[-1] < 0.7 * losses[0]


def test_the_moments_of_the_channels_that_stay_are_carried_over(images):
    torch.manual_seed(0)
    model = simple_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    refinement = RuntimeRefinement(model, Structured(downscale_factor=1.0), replay=Replay(steps=0))
    trained(model, images, optimizer)
    weight, moment = model.conv1.weight.clone(), optimizer.state[model.conv1.weight]
    moment = moment["momentum_buffer"].clone()
    refinement.refinement_cycle([images], 0.4)
    now = model.conv1.weight
    assert len(now) < 32
    stays = [next(i for i in range(32) if torch.equal(weight[i], row)) for row in now]
    assert torch.equal(optimizer.state[now]["momentum_buffer"], moment[stays])


def test_a_filter_that_is_gone_answers_as_one_that_is_zero(images):
    # SimpleCNN flattens channels last, which torch-pruning by itself takes for channels first.
    torch.manual_seed(0)
    model = simple_cnn().eval()
    masked = copy.deepcopy(model)
    before = model.conv3.weight.clone()
    RuntimeRefinement(
        model,
        Structured(protected=("conv1", "conv2", "fc1"), downscale_factor=1.0),
        replay=Replay(steps=0),
    ).refinement_cycle([images], 0.5)
    assert len(model.conv3.weight) == 32
    gone = [i for i in range(64) if not any(torch.equal(before[i], r) for r in model.conv3.weight)]
    with torch.no_grad():
        masked.bn3.weight[gone] = masked.bn3.bias[gone] = 0
        difference = (model.eval()(images[0]) - masked(images[0])).abs().max()
    assert difference < 1e-5


@pytest.mark.parametrize("name", [name for name in choices.CRITERIA if name != "none"])
@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_every_criterion_cuts_the_channels_asked_for(name, scope, images):
    torch.manual_seed(0)
    model = resnet20()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):  # as they begin, all are of equal rank
                layer.weight.uniform_(0.1, 1.0)
    before = copy.deepcopy(model).state_dict()
    random = torch.get_rng_state()
    structured = Structured(getattr(criteria, name), scope=scope)
    refinement = RuntimeRefinement(
        model, replace(structured, downscale_factor=1.0), replay=Replay(steps=0)
    )
    report = refinement.refinement_cycle([images], 0.25)
    assert report.channels == 448 * 3 // 4
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    widths = list(refinement.method.widths.values())
    if scope == "layerwise":
        assert all(now == 0.75 * at for now, at in zip(
            widths, refinement.method.initial.values(), strict=True
        ))  # fmt: skip
    assert model[-1].out_features == 10
    kept = model.state_dict()["0.weight"]
    assert all(any(torch.equal(row, old) for old in before["0.weight"]) for row in kept)


def test_taylor_scores_a_flattened_channel_by_its_own_columns(images):
    # SimpleCNN flattens channels last: the columns of a channel are not next to each other.
    torch.manual_seed(0)
    model = simple_cnn()
    F.cross_entropy(model(images[0]), images[1]).backward()
    group = Graph(model, images[0]).library_groups()["conv3"]
    scores = criteria.taylor(group)
    columns = model.fc1.weight * model.fc1.weight.grad
    own = model.conv3.weight * model.conv3.weight.grad
    wanted = columns.abs().sum(0).reshape(-1, 64).sum(0) + own.abs().flatten(1).sum(1)
    assert torch.allclose(scores, wanted / wanted.mean(), rtol=1e-3)  # biases count too


def test_a_random_cut_is_repeatable_and_another_cycle_draws_anew(images):
    def cut(seed, cycles=1):
        torch.manual_seed(0)
        model = simple_cnn()
        torch.manual_seed(seed)
        refinement = RuntimeRefinement(
            model, Structured(criteria.random, steps=5), replay=Replay(steps=0)
        )
        for _ in range(cycles):
            refinement.refinement_cycle([images], 0.3)
        return model.conv1.weight.detach()

    assert torch.equal(cut(1), cut(1))
    assert cut(1).shape != cut(2).shape or not torch.equal(cut(1), cut(2))


def test_targets_are_met_as_closely_as_whole_channels_allow(images):
    for unit, most in (("macs", 1.03), ("parameters", 1.01), ("channels", 1.0)):
        model = resnet20()
        refinement = RuntimeRefinement(
            model, Structured(unit=unit, steps=50, example=images[0]), replay=Replay(steps=0)
        )
        goal = refinement.method.prunable // 3
        refinement.refinement_cycle([images], 1 - goal / refinement.method.prunable)
        assert goal / most <= refinement.method.surviving <= goal
    assert refinement.active_parameters == sum(p.numel() for p in model.parameters())
    assert refinement.total_parameters == 272_474
    assert refinement.sparsity == 1 - refinement.active_parameters / 272_474


def test_a_missed_target_is_an_error_that_says_how_far_it_goes(images):
    model = resnet20()
    before = shapes(model)
    structured = by_macs(min_density=0.75)
    refinement = RuntimeRefinement(model, structured, replay=Replay(steps=0))
    with pytest.raises(ValueError, match=r"3\.0\dx fewer MACs .* 1\.7\dx is as far as it goes"):
        refinement.refinement_cycle([images], 2 / 3)
    assert shapes(model) == before
    assert refinement.cycles == 0


def test_floors_and_caps_hold_over_all_cycles_and_what_takes_nothing_says_so(images, caplog):
    model = resnet20()
    structured = Structured(min_density=0.5, min_channels=12)
    refinement = RuntimeRefinement(model, structured, replay=Replay(steps=0))
    log = logging.getLogger("refine")
    log.propagate, before = True, log.propagate
    try:
        with caplog.at_level(logging.WARNING, logger="refine"):
            for _ in range(6):
                report = refinement.refinement_cycle([images], 0.3)
    finally:
        log.propagate = before
    widths, initial = refinement.method.widths, refinement.method.initial
    assert widths == {root: max(12, width // 2) for root, width in initial.items()}
    assert sum(report.cut.values()) == 0
    assert "took nothing out" in caplog.text


def test_widths_become_multiples(images):
    model = resnet20()
    structured = by_macs(round_to=4)
    refinement = RuntimeRefinement(model, structured, replay=Replay(steps=0))
    refinement.refinement_cycle([images], 0.5)
    assert all(width % 4 == 0 for width in refinement.method.widths.values())


def test_protected_and_frozen_layers_stay_and_the_classifier_by_itself(images):
    model = simple_cnn()
    model.conv2.requires_grad_(False)
    structured = Structured(protected=("conv1",))
    refinement = RuntimeRefinement(
        model, replace(structured, example=images[0]), replay=Replay(steps=0)
    )
    assert set(refinement.method.widths) == {"conv3", "fc1"}
    assert "frozen" in refinement.method.kept["conv2"]
    refinement.refinement_cycle([images], 0.5)
    assert (model.conv1.out_channels, model.conv2.out_channels) == (32, 64)
    assert model(images[0]).shape == (16, 10)
    with pytest.raises(ValueError, match="'conv9' is no layer"):
        RuntimeRefinement(simple_cnn(), Structured(protected=("conv9",)))


def test_wrapped_and_parametrised_networks_are_refused():
    compiled = torch.compile(simple_cnn())
    masked = simple_cnn()
    prune.identity(masked.conv1, "weight")
    for model, reason in ((compiled, "compile it again"), (masked, "make it permanent")):
        with pytest.raises(ValueError, match=reason):
            RuntimeRefinement(model, Structured())


def test_layers_that_cannot_be_followed_keep_their_channels(images):
    class Odd(nn.Module):
        """Its second layer's outputs are added to a slice of themselves, by number."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            x = F.relu(self.b(F.relu(self.a(x))))
            x = x + x[:, [7, 6, 5, 4, 3, 2, 1, 0]]
            return self.head(x.mean((2, 3)))

    model = Odd()
    refinement = RuntimeRefinement(model, Structured(example=images[0]), replay=Replay(steps=0))
    assert set(refinement.method.widths) == {"a"}
    assert "b" in refinement.method.kept


def test_what_goes_with_the_network_becomes_smaller_with_it(images):
    torch.manual_seed(0)
    model = resnet20()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    distillation = Distillation(Ema(0.5), during="cycle")
    refinement = RuntimeRefinement(
        model,
        by_macs(),
        distillation=distillation,
        optimizer=optimizer,
        replay=Replay(steps=3, batch_size=8),
    )
    rewind = WeightRewind(model, refinement.masks, 1)
    refinement.followers["rewind"] = rewind
    trained(model, images, optimizer)
    rewind.note(1)
    noted = model[0].weight.detach().clone()
    trained(model, images, optimizer)
    report = refinement.refinement_cycle([images], 0.5, recover=rewind.rewind_)
    assert report.replay_steps == 3
    for _ in range(4):
        outputs, matched = distillation.forward(model, images[0])
        loss = distillation.blended(F.cross_entropy(outputs, images[1]), matched, images[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shapes(distillation.teacher.network) == shapes(model)
    rewind.rewind_()
    stays = model[0].weight.detach()
    assert all(any(torch.equal(row, old) for old in noted) for row in stays)


def test_masks_and_channels_together(images):
    torch.manual_seed(0)
    model = simple_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    RuntimeRefinement(model, replay=Replay(steps=0)).refinement_cycle(None, 0.5)
    refinement = RuntimeRefinement(model, Structured(), replay=Replay(steps=0))
    refinement.refinement_cycle([images], 0.3)
    trained(model, images, optimizer)
    nonzero = sum(int(p.count_nonzero()) for p in model.parameters())
    assert refinement.active_parameters == nonzero
    assert refinement.prunable_sparsity > 0.5


def test_a_step_of_the_graph_warns_of_nothing_and_needs_an_example(images):
    refinement = RuntimeRefinement(simple_cnn(), Structured())
    with pytest.raises(ValueError, match="example"):
        refinement.refinement_cycle(None, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refinement.refinement_cycle([images], 0.2)


def test_the_least_that_validation_may_say_is_kept(images):
    torch.manual_seed(0)
    model = simple_cnn()

    def widest(network):  # "accuracy": how much of the first layer is left
        return network.conv1.out_channels / 32

    refinement = RuntimeRefinement(
        model, Structured(scope="layerwise", steps=5, downscale_factor=1.0), replay=Replay(steps=0)
    )
    report = refinement.refinement_cycle([images], 0.5, validate=widest, floor=0.75)
    assert model.conv1.out_channels == 24
    assert 0.2 < report.ratio < 0.3
