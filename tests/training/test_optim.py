import copy

import pytest
import torch
from torch import nn

from refine.training.optim import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (20, 20), (300, 500)])
def test_orthogonalized_keeps_the_vectors_and_evens_the_values(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    ours = orthogonalized(matrix, 5)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    exact = u @ v
    assert ours.shape == matrix.shape
    assert ours.dtype == matrix.dtype
    cosine = (ours * exact).sum() / (ours.norm() * exact.norm())
    assert cosine > 0.95
    assert 0.6 < torch.linalg.svdvals(ours).median() < 1.3


def test_matrices_and_vectors_step_by_their_own_rules():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3)
    before = [weight.detach().clone() for weight in (model.weight, model.bias)]
    model.weight.grad, model.bias.grad = torch.randn(4, 3, 3, 3), torch.randn(4)
    Muon(
        model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.2, vector_lr_ratio=2,
        vector_weight_decay=0.3, iterations=5,
    ).step()  # fmt: skip
    direction = orthogonalized(1.5 * model.weight.grad.reshape(4, 27), 5).view(4, 3, 3, 3)
    assert torch.allclose(model.weight, before[0] * (1 - 0.02) - 0.1 * direction, atol=1e-6)
    gradient = model.bias.grad + 0.3 * before[1]
    assert torch.allclose(model.bias, before[1] - 0.2 * 1.5 * gradient, atol=1e-6)


def test_it_also_learns_directions_of_small_gradients():
    torch.manual_seed(0)
    x = torch.randn(200, 20) * torch.logspace(0, -2, 20)  # badly conditioned
    rotation = torch.linalg.qr(torch.randn(20, 20))[0]
    start, errors = nn.Linear(20, 20, bias=False), {}
    for name, make in {
        "muon": lambda p: Muon(p, lr=0.05, weight_decay=0, iterations=5),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, nesterov=True),
    }.items():
        layer = copy.deepcopy(start)
        optimizer = make(layer.parameters())
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 100)
        for _ in range(100):
            optimizer.zero_grad()
            (layer(x) - x @ rotation.T).square().sum(1).mean().backward()
            optimizer.step()
            decay.step()
        errors[name] = float((layer.weight - rotation).norm())
    assert errors["muon"] < 0.5 * errors["sgd"]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="momentum"):
        Muon([nn.Parameter(torch.zeros(2, 2))], momentum=1)
    with pytest.raises(ValueError, match="iterations"):
        Muon([nn.Parameter(torch.zeros(2, 2))], iterations=0)
