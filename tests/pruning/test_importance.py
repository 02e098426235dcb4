import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine.evaluation.traceless import score
from refine.pruning import gradients, importance
from refine.rng import random_state
from refine.sparsity.layers import prunable_names
from refine.sparsity.watching import watch

DATA_BASED = {function.__name__: function for function in importance.NEED_DATA}
CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (3, 2), groups=2, dilation=2),
    nn.Conv2d(4, 4, 3, groups=4, padding="same", padding_mode="reflect"),
    nn.Conv1d(4, 3, 2, bias=False),
    nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1),
    nn.ConvTranspose2d(4, 6, (2, 3), groups=2, output_padding=1, stride=2),
]


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2),
        nn.Dropout(), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    with torch.no_grad():
        model[1].running_mean.uniform_()
    return model.eval()


def batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 2, 6, 6, generator=generator), torch.arange(size) % 3) for size in sizes
    ]


def gradients_of(model, inputs, targets, loss=F.cross_entropy):
    model = copy.deepcopy(model)
    model.zero_grad()
    loss(model(inputs), targets).backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def every():
    """All importances, with a movement that has seen a step."""
    model, made = network(), {}
    for name in importance.__all__:
        made[name] = getattr(importance, name)
    made["movement"] = moved = importance.movement()
    F.cross_entropy(model(batches(4)[0][0]), batches(4)[0][1]).backward()
    moved.observe(dict(model.named_parameters()))
    return made


def assert_scores(found, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize("name", importance.__all__)
@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.enable_grad])
def test_scoring_changes_nothing_and_gives_every_prunable_weight_a_number(name, grad_mode):
    model = network()
    model[0].train()  # as somebody set it apart
    model[1].bias.requires_grad = False
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    before = copy.deepcopy(model)
    grads = {key: weight.grad.clone() for key, weight in model.named_parameters()}

    def drawn():  # as a loader that shuffles
        for inputs, targets in batches(5, 3):
            order = torch.randperm(len(inputs))
            yield inputs[order], targets[order]

    chosen, state = every()[name], random_state()
    with grad_mode():
        scores = score(chosen, model, drawn())
    after = random_state()
    assert after["torch"].equal(state["torch"])
    assert after["python"] == state["python"]
    for key, tensor in before.state_dict().items():
        assert model.state_dict()[key].equal(tensor)
    for (key, weight), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert weight.grad.equal(grads[key])
        assert weight.requires_grad == old.requires_grad
    for layer, old in zip(model.modules(), before.modules(), strict=True):
        assert layer.training == old.training
        assert not layer._forward_pre_hooks
    assert set(scores) >= set(prunable_names(model)) or name == "none"
    for key, tensor in scores.items():
        assert tensor.shape == dict(model.named_parameters())[key].shape
        assert tensor.isfinite().all()
        assert not tensor.requires_grad


@pytest.mark.parametrize("name", DATA_BASED)
def test_without_a_batch_a_score_of_the_data_says_so(name):
    model = network()
    with pytest.raises(ValueError, match="needs data") as error:
        DATA_BASED[name](model, [])
    assert "\n" not in str(error.value)
    assert not any(layer._forward_pre_hooks for layer in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [*DATA_BASED, "similarity"])
def test_any_precision_of_the_weights_will_do(name, dtype):
    model, data = network(), batches(6, 3)
    expected = getattr(importance, name)(model, data)
    data = [(inputs.to(dtype), targets) for inputs, targets in data]
    found = getattr(importance, name)(model.to(dtype), data)
    for key in prunable_names(model):
        assert (found[key] - expected[key]).abs().max() < 0.1 * expected[key].max()


def test_taylor_is_the_mean_over_batches_of_the_first_order_change():
    model, data = network(), batches(6, 3, 4)
    found = [gradients_of(model, *batch) for batch in data]
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    changes = {
        name: torch.stack([weight * grads[name] for grads in found])
        for name, weight in weights.items()
    }
    plain = {name: change.abs().mean(0) for name, change in changes.items()}
    assert_scores(importance.taylor(model, data), plain)
    squared = {name: change.square().mean(0) for name, change in changes.items()}
    assert_scores(importance.taylor_squared(model, data), squared)


def test_taylor_by_hand_with_a_loss_of_ones_own():
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -2.0]])
    data = [(torch.tensor([[1.0, 1.0]]), torch.zeros(1, 1)), (torch.tensor([[3.0, 0.0]]),) * 2]

    def loss(outputs, targets):  # w g: 1 and -2, then 3 and 0
        return outputs.sum()

    assert importance.taylor(model, data, loss)["weight"].tolist() == [[2, 1]]
    assert importance.taylor_squared(model, data, loss)["weight"].tolist() == [[5, 2]]
    assert importance.fisher(model, data, loss)["weight"].tolist() == [[2.5, 1]]
    snip = importance.snip(model, data, loss)["weight"]
    torch.testing.assert_close(snip, torch.tensor([[4 / 6, 2 / 6]]))


def test_snip_is_the_share_in_the_sensitivity_of_the_loss_of_all_batches_together():
    model, data = network(), batches(6, 3)
    together = [torch.cat(parts) for parts in zip(*data, strict=True)]
    grads = gradients_of(model, *together)
    change = {name: (w.detach() * grads[name]).abs() for name, w in model.named_parameters()}
    total = sum(tensor.sum() for tensor in change.values())
    assert_scores(
        importance.snip(model, data), {name: tensor / total for name, tensor in change.items()}
    )


class Branching(nn.Module):
    """What vmap cannot follow: a step that depends on a value."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return self.inner(x * (2.0 if x.sum().item() > 0 else 0.5))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.out = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.lstm(x.flatten(1, 2))[0][:, -1])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("at_once", [1, 3000, 2**26])
@pytest.mark.parametrize("make", [network, Branching, Recurrent])
def test_fisher_takes_the_gradient_of_every_example(monkeypatch, make, at_once):
    monkeypatch.setattr(gradients, "SAMPLE_GRADIENTS_AT_ONCE", at_once)
    monkeypatch.setattr(gradients, "ONE_BY_ONE", ())
    model, data = make(), batches(6, 3)
    if make is Branching:  # an example on its own takes its own branch
        assert len({bool(x.sum() > 0) for x in data[0][0]}) == 2
    examples = [
        one for batch in data for one in zip(batch[0].split(1), batch[1].split(1), strict=True)
    ]
    found = [gradients_of(model, *one) for one in examples]
    expected = {
        name: torch.stack([grads[name] for grads in found]).square().mean(0) * w.detach() ** 2 / 2
        for name, w in model.named_parameters()
    }
    assert_scores(importance.fisher(model, data), expected)


def test_fisher_takes_many_examples_at_a_time_and_an_error_of_ones_own_comes_through(monkeypatch):
    calls, together = [], gradients._together
    monkeypatch.setattr(
        gradients, "_together", lambda *args: calls.append(len(args[1])) or together(*args)
    )
    model = network()
    importance.fisher(model, batches(6, 3))
    assert calls == []  # on a CPU
    monkeypatch.setattr(gradients, "ONE_BY_ONE", ())
    monkeypatch.setattr(gradients, "SAMPLE_GRADIENTS_AT_ONCE", 4 * 300)
    assert 4 <= 1200 // sum(weight.numel() for weight in model.parameters()) < 5
    importance.fisher(model, batches(6, 3))
    assert calls == [4, 2, 3]
    with pytest.raises(ZeroDivisionError):
        importance.fisher(model, batches(2), lambda outputs, targets: 1 / 0)


def test_what_the_loss_does_not_depend_on_scores_zero_and_what_does_not_train_has_no_score():
    model = nn.ModuleDict(
        {"used": nn.Linear(2, 2), "not": nn.Linear(2, 2), "fixed": nn.Linear(2, 2)}
    )
    model["fixed"].requires_grad_(False)
    model.forward = lambda x: model["fixed"](model["used"](x))
    data = [(torch.randn(3, 2), torch.tensor([0, 1, 0]))]
    for name in ("taylor", "taylor_squared", "fisher", "snip"):
        scores = getattr(importance, name)(model, data)
        assert scores["used.weight"].min() > 0
        assert scores["not.weight"].eq(0).all()
        assert "fixed.weight" not in scores
        with pytest.raises(ValueError, match="no parameter of the model trains"):
            getattr(importance, name)(nn.Linear(2, 2).requires_grad_(False), data)


def test_activation_by_hand():
    model = nn.Linear(2, 2)
    model.weight.data = torch.tensor([[1.0, -1.0], [3.0, 0.5]])
    inputs = torch.tensor([[3.0, 0.0], [4.0, 2.0]])  # root mean squares: sqrt(12.5), sqrt(2)
    expected = torch.tensor([[12.5**0.5, 2**0.5], [3 * 12.5**0.5, 0.5 * 2**0.5]])
    for data in ([(inputs, 0)], [(inputs[:1], 0), (inputs[1:], 0)], [(inputs[None], 0)]):
        found = importance.activation(model, data)
        torch.testing.assert_close(found["weight"], expected)
        assert found["bias"].equal(model.bias.abs())


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_activation_of_convolutions_is_the_size_of_what_one_weight_makes(layer):
    torch.manual_seed(0)
    images = torch.randn(3, 4, 7, 6)
    images = images[:, :, :, 0] if isinstance(layer, nn.Conv1d) else images
    alone, expected = copy.deepcopy(layer), torch.empty_like(layer.weight)
    positions = images.numel() // 4
    for index in itertools.product(*map(range, layer.weight.shape)):
        alone.weight.data.zero_()
        alone.weight.data[index] = 1
        alone.bias = None
        made = alone(images)
        if "Transpose" not in type(layer).__name__:
            positions = made[:, 0].numel()
        expected.data[index] = made.square().sum().div(positions).sqrt()
    expected = expected.detach() * layer.weight.detach().abs()
    assert_scores(importance.activation(layer, [(images, 0)]), {"weight": expected})
    for one in ([(image[None], 0) for image in images], [(image, 0) for image in images]):
        assert_scores(importance.activation(layer, one), {"weight": expected})


def test_activation_of_shared_attention_and_large_half_precision_weights():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.twin = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.twin.weight = self.first.weight
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, x):
            self.first(x), self.twin(input=3 * x)
            return self.attention(x, x, x)[0]

    model, inputs = Mixed(), torch.ones(5, 2, 4)
    found = importance.activation(model, [(inputs, 0)])
    weight = model.first.weight.detach().abs()
    torch.testing.assert_close(found["first.weight"], weight * 5**0.5)  # of 1 and 9
    alone = model.attention.in_proj_weight
    assert found["attention.in_proj_weight"].equal(alone.detach().abs())
    half = nn.Linear(4, 4).half()
    found = importance.activation(half, [(torch.full((9, 4), 1000.0).half(), 0)])["weight"]
    torch.testing.assert_close(found, half.weight.detach().float().abs() * 1000)


def test_activation_removes_its_hooks_when_the_network_fails():
    model = network()
    with pytest.raises(RuntimeError):
        importance.activation(model, [(torch.zeros(2, 9, 6, 6), 0)])
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_activation_under_autocast_sees_the_weights_themselves():
    model, data = network(), batches(6, 3)
    expected = importance.activation(model, data)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            model(data[0][0])  # autocast keeps copies of the weights from it
        found = importance.activation(model, data)
    assert found["0.weight"].equal(expected["0.weight"])  # its inputs are the data
    for name in prunable_names(model):
        torch.testing.assert_close(found[name], expected[name], rtol=0.05, atol=0.01)


def test_similarity_by_hand():
    model = nn.Linear(2, 3)
    model.weight.data = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    rows = [5 + 8, 5 + 5, 8 + 5]
    assert importance.similarity(model, [])["weight"].tolist() == [[row] * 2 for row in rows]


@pytest.mark.parametrize("layer", [*CONVOLUTIONS, nn.LSTM(3, 2), nn.Bilinear(2, 3, 4)], ids=str)
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_similarity_sums_the_distances_to_the_other_filters(monkeypatch, layer, at_once):
    monkeypatch.setattr(importance, "DISTANCES_AT_ONCE", at_once)
    found = importance.similarity(layer, [])
    for name in prunable_names(layer):
        weight = dict(layer.named_parameters())[name].detach()
        if "Transpose" in type(layer).__name__:
            parts = [part.transpose(0, 1) for part in weight.chunk(layer.groups)]
            filters = [one for part in parts for one in part]
            assert len(filters) == layer.out_channels
        else:
            filters = list(weight)
        sums = [sum((one - other).norm() for other in filters) for one in filters]
        for index in itertools.product(*map(range, weight.shape)):
            if "Transpose" in type(layer).__name__:
                group = index[0] // (layer.in_channels // layer.groups)
                number = group * weight.shape[1] + index[1]
            else:
                number = index[0]
            torch.testing.assert_close(found[name][index], sums[number], rtol=1e-4, atol=1e-4)


def train(model, optimizer, data, scaler=None):
    """Steps as anybody's loop does them; yields the weights and gradients of each."""
    model.train()
    for inputs, targets in data:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        (scaler.scale(loss) if scaler else loss).backward()
        size = scaler.get_scale() if scaler else 1.0
        yield {
            name: (weight.detach().clone(), weight.grad / size)
            for name, weight in model.named_parameters()
        }
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()


def followed(model):
    moved = importance.movement()
    watch(model).observers.append(moved.observe)
    return moved


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_movement_sums_what_the_steps_of_an_epoch_did(fused, scaled):
    model = network()
    moved = followed(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.05, fused=fused)
    scaler = torch.amp.GradScaler("cpu") if scaled else None
    list(train(model, optimizer, batches(4, 4), scaler))
    moved.begin_epoch()
    steps = list(train(model, optimizer, batches(6, 3, 5), scaler))
    expected = {
        name: -sum(step[name][0] * step[name][1] for step in steps)
        for name in prunable_names(model)
    }
    assert_scores(moved(model, []), expected)
    assert (expected["0.weight"] < 0).any()


def test_movement_leaves_out_steps_that_a_scaler_skips():
    model = network()
    moved = followed(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    good, other = batches(4, 4)
    bad = other[0].clone().fill_(torch.inf), other[1]
    steps = list(train(model, optimizer, [good], scaler))
    weights = copy.deepcopy(model.state_dict())
    list(train(model, optimizer, [bad], scaler))
    assert model.state_dict()["0.weight"].equal(weights["0.weight"])  # it was skipped
    expected = {name: -steps[0][name][0] * steps[0][name][1] for name in prunable_names(model)}
    assert_scores(moved(model, []), expected)


def test_movement_knows_what_it_has_not_seen():
    model = network()
    moved = followed(model)
    with pytest.raises(ValueError, match="no training step"):
        moved(model, [])
    model[7].weight.requires_grad_(False)
    list(train_some(model))
    model[7].weight.requires_grad_(True)
    scores = moved(model, [])
    assert scores["7.weight"].eq(0).all()
    assert scores["0.weight"].ne(0).any()
    again = importance.movement()
    again.load_state_dict(moved.state_dict())
    assert_scores(again(model, []), scores)
    again.begin_epoch()
    with pytest.raises(ValueError, match="no training step"):
        again(model, [])
    model[0] = nn.Conv2d(2, 4, 1)  # its layer was replaced by one of another shape
    assert moved(model, [])["0.weight"].eq(0).all()


def test_movement_begins_anew_with_a_layer_of_another_shape_and_leaves_out_sparse_gradients():
    moved, table = importance.movement(), nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    for model in (nn.Linear(3, 2), nn.Linear(2, 2)):
        model(torch.ones(1, model.in_features)).sum().backward()
        moved.observe({"weight": model.weight, "table": table.weight})
    assert_scores(moved(model, []), {"weight": -model.weight.detach()})
    assert set(moved.state_dict()) == {"weight"}


def train_some(model):
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for inputs, targets in batches(4):
        F.cross_entropy(model(inputs), targets).backward()
        torch.optim.SGD(trained, 0.1).step()
        yield


def test_observers_see_only_what_the_optimizer_trains_and_the_gradients_of_cut_weights():
    model, seen = network(), []
    watching = watch(model)
    cut = torch.zeros_like(model[0].weight, dtype=torch.bool)
    cut[:, :, 1] = True
    watching.masks.cut_({"0.weight": cut})

    def observer(weights, scale):
        seen.append({name: weight.grad.clone() for name, weight in weights.items()})
        assert scale is None

    watching.observers.append(observer)
    inputs, targets = batches(4)[0]
    F.cross_entropy(model(inputs), targets).backward()
    torch.optim.SGD(model[0].parameters(), 0.1).step()
    torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1).step()
    assert [set(step) for step in seen] == [{"0.weight"}]
    assert seen[0]["0.weight"][cut].ne(0).any()
    assert model[0].weight.grad[cut].eq(0).all()  # only now

    def closure():
        model.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    torch.optim.LBFGS(model.parameters()).step(closure)
    assert len(seen) == 2  # after the first of the closure's calls
    torch.optim.SGD(model.parameters(), 0.1).step(None)
    assert set(seen[1]) == set(seen[2]) == set(prunable_names(model))


def test_moments_are_cleared_after_a_step_with_a_closure_alone(monkeypatch):
    model, cleared = network(), []
    masks = watch(model).masks
    monkeypatch.setattr(masks, "zero_moments_", cleared.append)
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.step()
    assert cleared == [optimizer]  # as it is new
    optimizer.step()
    assert cleared == [optimizer]
    optimizer.step(lambda: None)
    assert cleared == [optimizer, optimizer]


def test_an_importance_of_ones_own_takes_a_loss_or_does_not():
    model, given = network(), []

    def two(model, batches):
        given.append(model.training)
        torch.rand(1)
        return {}

    def three(model, batches, loss):
        given.append(loss)
        return {}

    def open_ended(model, batches, **settings):
        given.append(settings)
        return {}

    model.train()
    for own in (two, three, open_ended, partial(three, loss=F.mse_loss)):
        assert score(own, model, [], F.nll_loss) == {}
    assert given == [False, F.nll_loss, {"loss": F.nll_loss}, F.mse_loss]
    assert model.training


def test_a_failing_importance_leaves_the_modes_and_the_generators_too():
    model = network().train()
    state = torch.get_rng_state()

    def failing(model, batches):
        torch.rand(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        score(failing, model, [])
    assert torch.get_rng_state().equal(state)
    assert model.training


def test_any_importance_becomes_one_that_can_see_steps():
    model = network()
    plain = importance.as_importance(importance.magnitude)
    assert not plain.needs_steps
    assert plain.function is importance.magnitude
    plain.observe({})
    plain.begin_epoch()
    plain.load_state_dict({})
    assert plain.state_dict() == {}
    assert_scores(plain(model, []), importance.magnitude(model, []))
    assert importance.as_importance(plain) is plain
    moved = importance.as_importance(importance.movement)
    assert isinstance(moved, importance.movement)
    assert moved.needs_steps
    assert importance.as_importance(moved) is moved


def test_a_wrapped_importance_is_given_the_loss_only_if_its_function_takes_it():
    def with_loss(model, batches, loss=None):
        return {"loss": loss}

    def without(model, batches):
        return {"loss": None}

    def given(function):
        found = [score(f, network(), [], 7) for f in (function, importance.as_importance(function))]
        assert found[0] == found[1]
        return found[0]["loss"]

    assert given(with_loss) == 7
    assert given(without) is None
    assert given(partial(with_loss, loss=3)) == 3
    assert given(lambda model, batches, **others: others) == 7


def test_half_of_an_importance_that_remembers_is_refused():
    class Half:
        def observe(self, weights, scale):
            raise AssertionError

        def __call__(self, model, batches):
            return {}

    with pytest.raises(TypeError, match="lacks needs_steps, begin_epoch"):
        importance.as_importance(Half())
