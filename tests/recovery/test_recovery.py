import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR

from refine import recovery
from refine.config.instantiate import public_functions
from refine.recovery import Rates, Recovery, WeightRewind, clr, fine_tune, lr_rewind, one_cycle, slr
from refine.recovery.curves import WARM_UP, momentum
from refine.sparsity.masks import Masks
from refine.sparsity.watching import watch
from refine.training.optim import Muon

CURVES = public_functions(recovery)
# What torch's one-cycle is to be given: warm-up, and the factors down to the first and last rate.
ONE_CYCLES = {clr: (0.1, 100, 100), one_cycle: (0.3, 25, 1e4)}


def parameter():
    return nn.Parameter(torch.ones(2))


def sgd(lr=0.1, **settings):
    return torch.optim.SGD([parameter()], lr=lr, momentum=0.9, **settings)


def followed(scheduler, steps, read=lambda group: group["lr"]):
    """What ``read`` finds in the optimizer's first group at each step along a torch scheduler."""
    found = []
    for step in range(steps):
        found.append(read(scheduler.optimizer.param_groups[0]))
        scheduler.optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return found


def torch_one_cycle(curve, optimizer, steps, highest=0.1):
    warm_up, first, last = ONE_CYCLES[curve]
    return OneCycleLR(
        optimizer,
        highest,
        total_steps=steps,
        pct_start=warm_up,
        div_factor=first,
        final_div_factor=last,
    )


def walked(recovering, optimizer, steps, read=lambda group: group["lr"]):
    """The same along a recovery that was restarted."""
    found = []
    for _ in range(steps):
        found.append(read(optimizer.param_groups[0]))
        recovering.step()
    return found


def points(curve, steps, rates):
    return [curve(step, steps, rates) for step in range(steps)]


def exactly(values):
    return pytest.approx(values, rel=1e-12, abs=0)


@pytest.mark.parametrize("curve", ONE_CYCLES)
def test_one_cycle_curves_are_torchs(curve):
    for steps in (*range(1, 40), 160, 997):
        if curve is clr and steps == 10:
            continue  # torch divides by 0, as its warm-up ends with step 0
        scheduler = torch_one_cycle(curve, sgd(), steps)
        both = followed(scheduler, steps, lambda group: (group["lr"], group["momentum"]))
        rates, momenta = zip(*both, strict=True)
        assert points(curve, steps, Rates(0.1, 0.001)) == exactly(list(rates)), steps
        ours = [momentum(step, steps, WARM_UP[curve]) for step in range(steps)]
        assert ours == exactly(list(momenta)), steps


def test_where_torch_divides_by_zero_the_first_step_is_the_turn():
    rates = points(clr, 10, Rates(0.1, 0.001))
    assert (rates[0], rates[-1], momentum(0, 10, 0.1)) == exactly((0.1, 1e-5, 0.85))
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 72])
def test_a_curve_ends_at_its_last_value(curve, steps):
    rates = Rates(0.1, 0.001, [0.1] * 30 + [0.01] * 20)
    values = points(curve, steps, rates)
    assert all(0 < value <= 0.1 for value in values)
    assert [curve(step, steps, rates) for step in (steps, 10 * steps)] == [values[-1]] * 2


def test_fine_tuning_stays_at_the_last_rate():
    assert points(fine_tune, 5, Rates(0.1, 0.001)) == [0.001] * 5


def test_lr_rewinding_replays_the_published_schedule():
    # 160 epochs at 0.1, divided by 10 at 80 and 120; the last 72 once more.
    original = followed(MultiStepLR(sgd(), [80, 120]), 160)
    rates = points(lr_rewind, 72, Rates(0.1, 0.001, original))
    assert rates == original[88:]
    assert rates == exactly([0.01] * 32 + [0.001] * 40)


def test_lr_rewinding_replays_a_cosine_and_waits_at_its_beginning():
    original = followed(CosineAnnealingLR(sgd(), 20), 20)
    rates = Rates(0.1, original[-1], original)
    assert points(lr_rewind, 8, rates) == original[12:]
    assert points(lr_rewind, 20, rates) == original
    assert points(lr_rewind, 23, rates) == [0.1] * 3 + original


def test_scaled_restart_by_hand():
    # 40 steps: 4 of warm-up, then 36, of which a half ends with step 21 and three quarters with 30.
    values = points(slr, 40, Rates(0.1, 0.001))
    cosine = [0.001 + 0.099 * (1 - math.cos(math.pi * share)) / 2 for share in (0, 1 / 4, 1 / 2)]
    assert values[:3] == exactly(cosine)
    assert values[2] == exactly(0.0505)
    assert values[4:] == exactly([0.1] * 18 + [0.01] * 9 + [0.001] * 9)
    # 20 steps: corners at 2, 11 and 15.5.
    assert points(slr, 20, Rates(1, 0.5)) == exactly([0.5, 0.75] + [1] * 9 + [0.1] * 5 + [0.01] * 4)
    # 200 steps, whose corners 110 and 155 floating point has at 110.00000000000001.
    assert points(slr, 200, Rates(1, 1)) == exactly([1] * 110 + [0.1] * 45 + [0.01] * 45)
    assert points(slr, 1, Rates(1, 0.5)) == exactly([0.5])
    assert points(slr, 2, Rates(1, 0.5)) == exactly([0.5, 1])
    assert points(slr, 3, Rates(1, 0.5)) == exactly([0.5, 1, 0.1])


@pytest.mark.parametrize("curve", ONE_CYCLES)
@pytest.mark.parametrize("adam", [False, True])
def test_an_optimizer_goes_along_torchs_one_cycle(curve, adam):
    def optimizer():
        return torch.optim.AdamW([parameter()], lr=0.1) if adam else sgd(nesterov=True)

    def read(group):
        return group["lr"], *(group["betas"] if adam else [group["momentum"]])

    ours = optimizer()
    recovering = Recovery(ours, curve, cycle_momentum=True)
    before = read(ours.param_groups[0])
    recovering.step()
    assert not recovering.active
    assert read(ours.param_groups[0]) == before
    expected = followed(torch_one_cycle(curve, optimizer(), 30), 30, read)
    recovering.restart(30)
    assert recovering.active
    for now, then in zip(walked(recovering, ours, 30, read), expected, strict=True):
        assert now == exactly(then)
    assert read(ours.param_groups[0]) == exactly(expected[-1])


def test_each_cut_begins_the_curve_anew():
    optimizer = sgd()
    recovering = Recovery(optimizer, slr, last=0.001)
    expected = {steps: points(slr, steps, Rates(0.1, 0.001)) for steps in (20, 40)}
    recovering.restart(40)
    assert walked(recovering, optimizer, 25) == expected[40][:25]
    recovering.restart(20)
    assert walked(recovering, optimizer, 20) == expected[20]
    assert walked(recovering, optimizer, 2) == expected[20][-1:] * 2
    recovering.restart(40)
    assert walked(recovering, optimizer, 40) == expected[40]


def test_what_stands_for_the_highest_and_the_last_rate():
    assert Recovery(sgd(), slr).rates == Rates(0.1, 0.1)
    assert Recovery(sgd(), slr, original=[0.1, 0.02]).rates == Rates(0.1, 0.02, (0.1, 0.02))
    assert Recovery(sgd(), slr, original=[0.1, 0.0]).rates.last == exactly(0.001)
    assert Recovery(sgd(), slr, original=[0.1, 0.0], last=1e-5).rates.last == 1e-5
    assert Recovery(sgd(), slr, highest=0.5).rates == Rates(0.5, 0.5)
    moved = sgd()
    followed(MultiStepLR(moved, [2]), 5)
    assert moved.param_groups[0]["lr"] == exactly(0.01)
    assert Recovery(moved, slr).rates.highest == 0.1
    one = sgd()
    followed(torch_one_cycle(clr, one, 20), 5)  # which notes where it begins as the initial rate
    assert Recovery(one, slr).rates.highest == 0.1


def test_its_own_moves_do_not_count_either():
    optimizer = sgd()
    Recovery(optimizer, clr).restart(20)
    saved = optimizer.state_dict()
    again = sgd(lr=7)
    again.load_state_dict(saved)
    assert again.param_groups[0]["lr"] == exactly(0.001)
    assert Recovery(again, clr).rates.highest == 0.1


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_a_state_continues_identically(curve):
    settings = {"original": [0.1, 0.05, 0.01], "cycle_momentum": curve in ONE_CYCLES}

    def read(group):
        return group["lr"], group["momentum"]

    optimizer, other = sgd(), sgd()
    recovering = Recovery(optimizer, curve, **settings)
    recovering.restart(30)
    walked(recovering, optimizer, 12)
    again = Recovery(other, curve, **settings)
    state = recovering.state_dict()
    assert all(type(value) is int for value in state.values())
    again.load_state_dict(copy.copy(state))
    assert again.active
    assert walked(again, other, 20, read) == walked(recovering, optimizer, 20, read)


def test_a_state_from_before_the_first_cut():
    optimizer = sgd()
    recovering = Recovery(optimizer, clr)
    recovering.load_state_dict(Recovery(sgd(), clr).state_dict())
    recovering.step()
    assert not recovering.active
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_groups_keep_their_proportion():
    groups = [{"params": [parameter()]}, {"params": [parameter()], "lr": 0.03}]
    optimizer = Muon(groups, lr=0.1)
    recovering = Recovery(optimizer, one_cycle, highest=0.2, cycle_momentum=True)
    recovering.restart(30)
    for rate in points(one_cycle, 30, Rates(0.2, 0.2)):
        first, second = optimizer.param_groups
        assert first["lr"] == rate
        assert second["lr"] == exactly(0.3 * rate)
        assert first["momentum"] == second["momentum"]
        recovering.step()


def test_a_rate_that_is_a_tensor_is_filled():
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = torch.optim.Adam([parameter()], lr=rate, capturable=True)
    recovering = Recovery(optimizer, clr)
    recovering.restart(20)
    for expected in points(clr, 20, Rates(0.1, 0.1)):
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == exactly(expected)
        recovering.step()
    assert recovering.rates.highest == 0.1


def test_none_does_nothing():
    optimizer = torch.optim.Adagrad([parameter()], lr=0.0)  # no rate, no momentum: not even looked
    before = copy.deepcopy(optimizer.param_groups[0] | {"params": None})
    recovering = Recovery(optimizer, None, cycle_momentum=True)
    recovering.restart(0)
    recovering.step()
    recovering.load_state_dict(recovering.state_dict())
    recovering.load_state_dict({"step": 3, "steps": 9})
    assert not recovering.active
    assert optimizer.param_groups[0] | {"params": None} == before


def test_settings_that_do_not_go_together():
    with pytest.raises(ValueError, match="curve lr_rewind needs"):
        Recovery(sgd(), lr_rewind)
    for curve in (fine_tune, lr_rewind, slr):
        with pytest.raises(ValueError, match="cycle_momentum goes with clr and one_cycle"):
            Recovery(sgd(), curve, original=[0.1], cycle_momentum=True)
    for optimizer in (torch.optim.Adagrad, torch.optim.RMSprop):
        with pytest.raises(ValueError, match=r"cycle_momentum .* has no momentum"):
            Recovery(optimizer([parameter()], lr=0.1), clr, cycle_momentum=True)
    for lr, highest in ((0.0, None), (0.0, 0.1), (0.1, 0.0)):
        with pytest.raises(ValueError, match="above 0"):
            Recovery(sgd(lr), clr, highest=highest)
    with pytest.raises(ValueError, match="at least 1 step after a cut, not 0"):
        Recovery(sgd(), clr).restart(0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 4)
    )


def train(model, steps=5):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 5, 5, generator=generator)).square().mean().backward()
        optimizer.step()


def cut(model, masks, share):
    scores = {name: weight.detach().abs() for name, weight in model.named_parameters()}
    counts = {name: int(share * mask.sum()) for name, mask in masks.items()}
    masks.cut_(masks.lowest(scores, counts))


def channels(masks, numbers):
    """Marks all weights of these filters of the convolution."""
    marked = torch.zeros_like(masks["0.weight"])
    marked[numbers] = True
    return {"0.weight": marked}


def noted(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def plus_zero(tensor):
    return bool((tensor == 0).all()) and not bool(tensor.signbit().any())


@pytest.mark.parametrize("epoch", [0, 2])
def test_survivors_have_the_noted_bits_and_cut_weights_are_zero(epoch):
    model = network()
    masks = watch(model).masks
    rewind = WeightRewind(model, masks, epoch)
    objects = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    for now in range(4):
        if now:
            train(model)
        rewind.note(now)
        if now == epoch:
            then = noted(model)
    cut(model, masks, 0.4)
    train(model)
    cut(model, masks, 0.4)
    train(model)  # with momentum, after the cut
    assert not torch.equal(model[1].running_mean, then["1.running_mean"])
    for _ in range(2):
        rewind.rewind_()
        for name, tensor in model.state_dict().items():
            alive = masks[name] if name in masks else torch.ones_like(tensor, dtype=torch.bool)
            assert torch.equal(tensor[alive], then[name][alive]), name
            assert plus_zero(tensor[~alive]), name
        assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == objects
        train(model)
    assert all(plus_zero(model.get_parameter(name)[~mask]) for name, mask in masks.items())


def test_what_goes_with_a_cut_filter_stays_at_zero():
    model = network()
    masks = watch(model).masks
    masks.attach(model, "0.weight", ["0.bias", "1.weight", "1.bias"])
    rewind = WeightRewind(model, masks, 0)
    rewind.note(0)
    then = noted(model)
    train(model)
    masks.cut_(channels(masks, [1, 4]))
    train(model)
    rewind.rewind_()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        tensor = model.get_parameter(name)
        assert plus_zero(tensor[[1, 4]]), name
        assert torch.equal(tensor[[0, 2, 3, 5]], then[name][[0, 2, 3, 5]]), name
    assert torch.equal(model[1].running_var, then["1.running_var"])


def test_what_was_cut_then_and_has_grown_back_is_kept():
    model = network()
    masks = watch(model).masks
    masks.attach(model, "0.weight", ["0.bias", "1.weight"])
    masks.cut_(channels(masks, [1, 4]))
    cut(model, masks, 0.2)
    with torch.no_grad():
        model[0].bias[0] = 0.0  # which lives, and is not held there
    rewind = WeightRewind(model, masks, 3)
    rewind.note(2)
    before = noted(model)
    rewind.note(3)
    then, alive_then = noted(model), masks["4.weight"].clone()
    assert all(torch.equal(then[name], before[name]) for name in then)
    masks.grow_(channels(masks, [4]), {"0.weight": torch.full((27,), 0.5)})
    grown = ~masks["4.weight"]
    masks.grow_({"4.weight": grown}, {"4.weight": torch.full((int(grown.sum()),), -0.5)})
    with torch.no_grad():
        for values in (model[0].bias, model[1].weight):
            values[[0, 4]] = torch.tensor([0.25, 0.75])
    train(model)
    cut(model, masks, 0.1)
    now = noted(model)
    rewind.rewind_()
    for name in ("0.weight", "0.bias", "1.weight"):
        tensor = model.get_parameter(name)
        alive = masks["0.weight"][4] if name == "0.weight" else torch.tensor(True)
        assert torch.equal(tensor[4][alive], now[name][4][alive]), name
        assert bool(tensor[4][alive].all()), name
        assert plus_zero(tensor[1]), name
    for channel in (0, 2, 3, 5):
        assert model[0].bias[channel] == then["0.bias"][channel]
    weight, alive = model[4].weight, masks["4.weight"]
    assert torch.equal(weight[alive & ~alive_then], now["4.weight"][alive & ~alive_then])
    assert torch.equal(weight[alive & alive_then], then["4.weight"][alive & alive_then])
    assert plus_zero(weight[~alive])
    assert (alive & ~alive_then).any()


def test_only_the_first_note_of_the_epoch_counts():
    model = network()
    rewind = WeightRewind(model, Masks(model), 1)
    with pytest.raises(RuntimeError, match="epoch 1 were not noted"):
        rewind.rewind_()
    rewind.note(0)
    with pytest.raises(RuntimeError, match="epoch 1 were not noted"):
        rewind.rewind_()
    rewind.note(1)
    then = noted(model)
    train(model)
    rewind.note(1)
    rewind.note(2)
    rewind.rewind_()
    assert all(torch.equal(tensor, then[name]) for name, tensor in model.state_dict().items())


def test_what_was_noted_can_be_saved():
    model = network()
    masks = watch(model).masks
    cut(model, masks, 0.3)
    rewind = WeightRewind(model, masks, 1)
    empty = rewind.state_dict()
    rewind.note(1)
    train(model)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "rewind": rewind.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    rewind.rewind_()
    other = network()
    other.load_state_dict(saved["model"])
    masks_again = watch(other).masks
    masks_again.load_(masks)
    again = WeightRewind(other, masks_again, 1)
    again.load_state_dict(saved["rewind"])
    again.note(1)  # as a run does that begins after this epoch
    again.rewind_()
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())
    WeightRewind(model, masks, 2).load_state_dict(empty)
    longer = WeightRewind(model, masks, 2)  # as a run that is continued for more epochs plans it
    longer.load_state_dict(saved["rewind"])
    assert longer.epoch == 1


def test_a_model_that_changed_its_precision():
    model = network()
    masks = watch(model).masks
    cut(model, masks, 0.3)
    rewind = WeightRewind(model, masks, 0)
    rewind.note(0)
    then = noted(model)
    model.double()
    with torch.no_grad():
        model[4].weight.fill_(-1)
    rewind.rewind_()
    assert torch.equal(model[4].weight, then["4.weight"].double())
    assert plus_zero(model[4].weight[~masks["4.weight"]])
