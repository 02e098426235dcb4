"""Which channels go together, in networks of all kinds: taken out or told why not."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from refine import RuntimeRefinement
from refine.channels.plan import Structured
from refine.evaluation.cost import macs
from refine.replay import Replay

pytest.importorskip("torch_pruning")


def refined(model, example, **given):
    pruner = Structured(downscale_factor=1.0, example=example, **given)
    return RuntimeRefinement(model, pruner, replay=Replay(steps=0))


class Tokens(nn.Module):
    """Pictures as tokens, channels last, normed and flattened: columns are (place, channel)."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.head = nn.Conv2d(3, 16, 3), nn.LayerNorm(16), nn.Linear(16 * 36, 10)

    def forward(self, x):
        return self.head(self.norm(self.a(x).permute(0, 2, 3, 1)).flatten(1))


class Residual(nn.Module):
    """A block whose inner convolution sees its channels in reverse; at first it gives 0."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 10)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        y = F.relu(self.a(x))
        y = y + self.norm(self.b(y.flip(1)))
        return self.head(F.relu(y).mean((2, 3)))


class Auxiliary(nn.Module):
    """Has a layer that only training uses."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3)
        self.head, self.aux = nn.Linear(8, 10), nn.Linear(12, 10)

    def forward(self, x):
        y = F.relu(self.a(x))
        out = self.head(F.relu(self.b(y)).mean((2, 3)))
        return out + 0.3 * self.aux(y.mean((2, 3))) if self.training else out


class Guesswork(nn.Module):
    """Cannot be traced, and its answers are not of the layer defined last."""

    def __init__(self):
        super().__init__()
        self.head, self.a, self.b = nn.Linear(8, 10), nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))
        return self.head(x) if x.sum() > -1 else self.head(-x)


class Several(nn.Module):
    """Answers with a dictionary."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 12, 3), nn.Linear(12, 10)

    def forward(self, x):
        y = F.relu(self.a(x)).mean((2, 3))
        return {"logits": self.head(y), "also": [self.head(y).sum(1)]}


class Dense(nn.Module):
    """Concatenates, as DenseNet does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.norm, self.c = nn.BatchNorm2d(14), nn.Conv2d(14, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = torch.cat([x, F.relu(self.b(x))], 1)
        return self.head(F.relu(self.c(F.relu(self.norm(x)))).mean((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution, a group norm, a transposed convolution, PReLU, a layer used twice."""

    def __init__(self):
        super().__init__()
        self.a, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.up, self.act = nn.ConvTranspose2d(8, 12, 2), nn.PReLU(12)
        self.b, self.norm = nn.Conv2d(12, 8, 1), nn.GroupNorm(2, 8)
        self.twice, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 10)

    def forward(self, x):
        x = self.norm(self.b(self.act(self.up(F.relu(self.grouped(F.relu(self.a(x))))))))
        return self.head(self.twice(F.relu(self.twice(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "free", "left"),
    [
        (Tokens, set(), {"a": "cannot be followed"}),
        (Residual, set(), {"a": "cannot be followed"}),
        (Auxiliary, {"b"}, {"a": "training"}),
        (Guesswork, {"a", "b"}, {"head": "outputs are the network's"}),
        (Several, {"a"}, {}),
        (Dense, {"a", "b", "c"}, {}),
        (Grouped, {"up"}, {"a": "kind"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_channels_are_taken_out_where_that_can_be_followed(make, free, left):
    torch.manual_seed(0)
    model, x = make(), torch.randn(4, 3, 8, 8)
    if not free:
        with pytest.raises(ValueError, match="no channel that can be taken out"):
            refined(model, x)
        return
    refinement = refined(model, x)
    assert set(refinement.method.widths) == free
    for name, reason in left.items():
        assert reason in refinement.method.kept[name]
    refinement.refinement_cycle(None, 0.4)
    for training in (True, False):
        model.train(training)
        out = model(x)
        out = out["logits"] if isinstance(out, dict) else out
        assert out.shape == (4, 10)
    out.sum().backward()


def test_tied_weights_stay_and_are_counted():
    tied = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), tied, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip
    model[4].weight = tied.weight
    x = torch.randn(2, 3, 8, 8)
    refinement = refined(model, x, unit="macs")
    assert refinement.method.prunable == macs(model, (3, 8, 8))
    assert set(refinement.method.widths) == {"6"}
    assert "shares" in refinement.method.kept["2"]
    refinement.refinement_cycle(None, 0.05)
    assert model[4].weight is model[2].weight
    assert refinement.method.surviving == macs(model, (3, 8, 8))


def test_what_may_be_pruned_is_all_that_is():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    refinement = refined(model, torch.randn(2, 3, 8, 8), prunable=["2.weight"])
    assert set(refinement.method.widths) == {"2"}


def small():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    return model, torch.randn(8, 3, 8, 8), torch.arange(8)


def test_two_refinements_of_a_network_see_each_others_cuts():
    model, x, _ = small()
    first, second = refined(model, x), refined(model, x, min_density=0.5)
    assert second.method.surviving == 28
    first.refinement_cycle(None, 0.4)
    assert second.method.surviving == first.method.surviving < 28
    second.refinement_cycle(None, 0.3)
    later = refined(model, x)
    assert later.method.prunable == first.method.prunable == 28
    assert later.sparsity == first.sparsity > 0
    assert later.method.initial == first.method.initial


def test_an_optimizer_that_was_never_seen_keeps_its_parameters_and_momentum():
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    weight = model[0].weight.detach().clone()
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].clone()
    refined(model, x).refinement_cycle(None, 0.4)
    # At once, as those who unscale or clip gradients come before its next step.
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    now = model[0].weight
    stays = [next(i for i in range(16) if torch.equal(weight[i], row)) for row in now]
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    expected = 0.9 * momentum[stays] + now.grad
    optimizer.step()
    assert torch.equal(optimizer.state[now]["momentum_buffer"], expected)
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in held)


SETTINGS = {
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "neither": {"foreach": False, "fused": False},
}


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_implementation_of_an_optimizer_steps_on_with_less(kind, name):
    if name == "fused" and kind in ("NAdam", "RMSprop"):
        pytest.skip(f"{kind} has no fused implementation")
    settings = {key: value for key, value in SETTINGS[name].items()
                if key != "fused" or kind not in ("NAdam", "RMSprop")}  # fmt: skip
    model, x, y = small()
    refinement = refined(model, x)
    if kind in ("SGD", "RMSprop"):
        settings["momentum"] = 0.9
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01, **settings)
    losses = stepped(model, optimizer, x, y, 3)
    refinement.refinement_cycle(None, 0.4)
    losses += stepped(model, optimizer, x, y, 5)
    assert losses[-1] < losses[3]
    for parameter in model.parameters():
        shapes = {v.shape for v in optimizer.state[parameter].values() if torch.is_tensor(v)}
        assert shapes <= {parameter.shape, torch.Size([])}


def stepped(model, optimizer, x, y, steps, scaler=None):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer) if scaler else optimizer.step()
        if scaler:
            scaler.update()
        losses.append(float(loss.detach()))
    return losses


def test_a_scaler_that_has_unscaled_and_parameters_that_are_clipped_are_the_same_objects():
    model, x, y = small()
    refinement, scaler = refined(model, x), torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    kept = list(model.parameters())  # as somebody's loop keeps them
    stepped(model, optimizer, x, y, 2, scaler)
    refinement.refinement_cycle(None, 0.4)
    assert all(one is other for one, other in zip(kept, model.parameters(), strict=True))
    losses = stepped(model, optimizer, x, y, 6, scaler)
    assert losses[-1] < losses[0]


def test_a_loss_that_somebody_keeps_and_hooks_on_parameters_survive_a_cut():
    model, x, y = small()
    calls = []
    model[0].weight.register_hook(lambda gradient: calls.append(tuple(gradient.shape)))
    model[0].weight.register_post_accumulate_grad_hook(
        lambda parameter: calls.append(tuple(parameter.grad.shape))
    )
    kept = F.cross_entropy(model(x), y)  # its graph knows the shapes of before
    kept.backward()
    refined(model, x).refinement_cycle(None, 0.4)
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    now = tuple(model[0].weight.shape)
    assert calls[-2:] == [now, now] != calls[:2]
    assert kept.grad_fn is not None


def test_a_distributed_wrapper_that_is_made_again_trains_what_is_left(tmp_path):
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo", f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        model, x, y = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        stepped(DistributedDataParallel(model), optimizer, x, y, 2)
        refined(model, x).refinement_cycle(None, 0.4)
        losses = stepped(DistributedDataParallel(model), optimizer, x, y, 6)
        assert losses[-1] < losses[0]
    finally:
        distributed.destroy_process_group()


def test_gradients_that_wait_for_a_step_go_along():
    model, x, y = small()
    F.cross_entropy(model(x), y).backward()
    before = model[0].weight.grad.clone()
    weight = model[0].weight.detach().clone()
    refined(model, x).refinement_cycle(None, 0.4)
    now = model[0].weight
    stays = [next(i for i in range(16) if torch.equal(weight[i], row)) for row in now]
    assert len(now) < 16
    assert torch.equal(now.grad, before[stays])


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("kind", ["LBFGS", "Adafactor"])
def test_optimizers_of_other_kinds_begin_anew(kind, stepped):
    model, x, y = small()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    def step():
        return optimizer.step(closure).item()

    if stepped:
        step()
    refined(model, x).refinement_cycle(None, 0.4)
    before = [p.detach().clone() for p in model.parameters()]
    losses = [step() for _ in range(4)]
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert losses[-1] < losses[0]


def test_the_network_may_change_its_precision():
    model, x, _ = small()
    refinement = refined(model, x)
    model.double()
    refinement.refinement_cycle(None, 0.4)
    assert model[0].weight.dtype == torch.float64


def test_inputs_that_are_no_pictures_are_refused():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(40, 16), nn.Linear(16, 3))
    with pytest.raises(ValueError, match="floating-point"):
        refined(model, torch.randint(0, 10, (2, 5)))


def test_what_a_cut_is_told_to_have_taken_lived_before():
    model, x, _ = small()
    RuntimeRefinement(model, replay=Replay(steps=0)).refinement_cycle(None, 0.5)
    refinement = refined(model, x)
    before = refinement.masks.surviving
    report = refinement.refinement_cycle(None, 0.4)
    assert sum(report.cut.values()) == before - refinement.masks.surviving


def test_settings_of_the_wrong_type_are_named():
    for settings in ({"criterion": "magnitude"}, {"round_to": 1.5}):
        with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
            Structured(**settings)
    assert Structured(protected="conv1").protected == ("conv1",)


@pytest.mark.parametrize("kind", ["Adam", "SGD", "Adafactor"])
def test_state_that_is_loaded_after_a_cut_is_kept(kind):
    settings = {"momentum": 0.9} if kind == "SGD" else {}
    model, x, y = small()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01, **settings)
    refinement = refined(model, x)
    stepped(model, optimizer, x, y, 3)
    refinement.refinement_cycle(None, 0.4)
    stepped(model, optimizer, x, y, 2)
    other = getattr(torch.optim, kind)(model.parameters(), lr=0.01, **settings)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin = copy.deepcopy(model)
    third = getattr(torch.optim, kind)(twin.parameters(), lr=0.01, **settings)
    third.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert stepped(model, other, x, y, 3) == stepped(twin, third, x, y, 3)


def test_state_that_was_loaded_between_two_cuts_follows_the_second():
    model, x, y = small()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    refinement = refined(model, x)
    stepped(model, optimizer, x, y, 3)
    refinement.refinement_cycle(None, 0.3)
    other = torch.optim.Adam(model.parameters(), lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    refinement.refinement_cycle(None, 0.3)
    stepped(model, other, x, y, 2)
    assert {float(other.state[p]["step"]) for p in model.parameters()} == {5.0}


def test_a_cut_inside_an_autocast_block_is_seen_by_the_next_pass():
    model, x, _ = small()
    with torch.autocast("cpu", torch.bfloat16):
        model(x).sum().backward()
        refined(model, x).refinement_cycle(None, 0.4)
        assert model(x).shape == (len(x), 10)
