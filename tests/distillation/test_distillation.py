import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine.distillation import Dense, Distillation, Ema, Self
from refine.distillation.matching import features, logits
from refine.refinement import RuntimeRefinement
from refine.replay import Replay


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def data(count=40):
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 5, generator=draw)
    targets = torch.randint(3, (count,), generator=draw)
    return list(zip(inputs.split(10), targets.split(10), strict=True))


def counted(model):
    calls = []
    model.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    return calls


def test_logits_are_compared_as_hinton_does():
    student, teacher = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 3.0, 1.0]])
    theirs, own = (F.softmax(part / 4, 1) for part in (teacher, student))
    by_hand = 16 * (theirs * (theirs / own).log()).sum()
    assert logits(student, teacher, 4.0).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_features_are_compared_in_units_of_the_teachers():
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    assert features(student, teacher, 1.0).item() == pytest.approx((4 + 1) / (9 + 1))


@pytest.mark.parametrize("match", [logits, features])
@pytest.mark.parametrize("teacher", [Self, Ema])
def test_distillation_of_a_copy_gives_zero_loss(match, teacher):
    model = network()
    distillation = Distillation(teacher(), match, weight=1.0, during="cycle")
    distillation.before_cut(model)
    for inputs, targets in data():
        outputs, matched = distillation.forward(model, inputs)
        loss = distillation.blended(F.cross_entropy(outputs, targets), matched, inputs)
        assert loss.item() == 0
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    outputs, matched = distillation.forward(model, inputs)
    assert distillation.blended(torch.tensor(0.0), matched, inputs).item() > 0


def test_the_weight_divides_the_loss_between_labels_and_teacher():
    model, (inputs, targets) = network(), data()[0]
    distillation = Distillation(Dense(network(7)), temperature=3.0, weight=0.3, during="cycle")
    distillation.before_cut(model)
    outputs, matched = distillation.forward(model, inputs)
    labels = F.cross_entropy(outputs, targets)
    distance = logits(outputs, network(7)(inputs), 3.0)
    blended = distillation.blended(labels, matched, inputs)
    assert blended.item() == pytest.approx((0.7 * labels + 0.3 * distance).item(), rel=1e-5)


def test_nothing_is_distilled_before_a_cut_or_outside_its_time():
    model, (inputs, _) = network(), data()[0]
    for during, afterwards in (("replay", False), ("cycle", True)):
        distillation = Distillation(Self(), during=during)
        assert distillation.forward(model, inputs)[1] is None
        distillation.before_cut(model)
        distillation.begin_replay()
        assert distillation.forward(model, inputs)[1] is not None
        distillation.end_replay()
        assert (distillation.forward(model, inputs)[1] is not None) == afterwards
    assert Distillation().forward(model, inputs)[1] is None


def test_a_teacher_that_stays_answers_once_for_every_example_of_a_memory():
    model, batches = network(), data()
    teacher = Dense(network(7))
    calls = counted(teacher.network)
    seen = []

    def step(batch):
        outputs, matched = distillation.forward(model, batch.inputs)
        own = F.cross_entropy(outputs, batch.targets)
        seen.append(distillation.blended(own, matched, batch.inputs, batch.places).item())
        assert seen[-1] == pytest.approx(
            (0.5 * own + 0.5 * logits(matched, network(7)(batch.inputs), 2.0)).item(), rel=1e-4
        )
        return own

    distillation = Distillation(teacher)
    replay = Replay(buffer_size=20, steps=12, batch_size=8)
    refinement = RuntimeRefinement(model, replay=replay, distillation=distillation, optimizer=step)
    for _ in range(2):
        calls.clear()
        refinement.refinement_cycle(batches)
        assert sum(calls) == 20
    assert len(seen) == 24


def test_the_teacher_is_the_network_just_before_the_cut():
    model, batches = network(), data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    distillation = Distillation(Self())
    refinement = RuntimeRefinement(model, replay=Replay(steps=0), distillation=distillation)
    refinement.refinement_cycle(batches, 0.5)
    theirs = distillation.teacher.network.state_dict()
    assert all(theirs[name].equal(value) for name, value in before.items())
    assert not model[0].weight.equal(before["0.weight"])


@pytest.mark.parametrize("closure", [False, True])
def test_the_running_average_is_the_naive_one_whoever_steps(closure):
    model, batches = network(), data()
    distillation = Distillation(Ema(decay=0.8), during="cycle")
    refinement = RuntimeRefinement(model, distillation=distillation, replay=Replay(steps=0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    naive = None
    for inputs, targets in batches:

        def loss(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            value = F.cross_entropy(model(inputs), targets)
            value.backward()
            return value

        loss()
        optimizer.step(loss if closure else None)
        now = model[0].weight.detach().clone()
        naive = now if naive is None else 0.8 * naive + 0.2 * now
    assert distillation.teacher.network[0].weight.allclose(naive)
    refinement.refinement_cycle(batches, 0.5)
    assert distillation.teacher.network[0].weight.allclose(naive)  # a cut is no step
    assert not any(weight.requires_grad for weight in distillation.teacher.network.parameters())


def test_a_network_with_a_teacher_is_forgotten_with_its_refinement():
    model = network()
    gone = weakref.ref(model)
    refinement = RuntimeRefinement(model, distillation=Distillation(Ema()))
    refinement.refinement_cycle(data(), 0.5)
    del model, refinement
    gc.collect()
    assert gone() is None


def test_a_refinement_that_was_dropped_leaves_no_teacher_with_the_network():
    model = network()
    teachers = []
    for _ in range(3):
        distillation = Distillation(Ema())
        RuntimeRefinement(model, distillation=distillation, replay=Replay(steps=0))
        teachers.append(weakref.ref(distillation))
    del distillation
    gc.collect()
    assert [teacher() for teacher in teachers] == [None] * 3


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"weight": 2.0}, {"weight": -1.0}, {"temperature": float("inf")}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="temperature must be above 0 and weight from 0 to 1"):
        Distillation(Self(), **wrong)
    with pytest.raises(ValueError, match="decay"):
        Ema(2.0)


@pytest.mark.parametrize("teacher", [Self, Ema])
def test_it_continues_from_a_state(teacher):
    model, (inputs, targets) = network(), data()[0]
    whole = Distillation(teacher(), during="cycle")
    whole.before_cut(model)
    with torch.no_grad():
        model[0].weight.mul_(0.9)
    whole.teacher.observe(model)
    again = Distillation(teacher(), during="cycle")
    again.load_state_dict(whole.state_dict(), network(5))
    losses = []
    for distillation in (whole, again):
        outputs, matched = distillation.forward(model, inputs)
        own = F.cross_entropy(outputs, targets)
        losses.append(distillation.blended(own, matched, inputs).item())
    assert losses[0] == losses[1]


def test_features_need_a_linear_layer():
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    distillation = Distillation(Self(), features, during="cycle")
    distillation.before_cut(convolution)
    with pytest.raises(ValueError, match="linear layer"):
        distillation.forward(convolution, torch.randn(2, 1, 3, 3))
    with pytest.raises(ValueError, match="during must be"):
        Distillation(Self(), during="always")
