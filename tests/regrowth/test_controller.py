import json
import random

import pytest
import torch

from refine.regrowth.controller import Policy, allocate
from refine.regrowth.shares import shared

CAPACITIES = {"a": 100, "b": 300, "c": 200, "d": 250}


def to_one_layer(counts):
    return 0.9 + 0.05 * counts["c"] / 200


def learned(seed, **settings):
    rows = []
    settings = {"episodes": 300} | settings
    best = allocate(CAPACITIES, 200, to_one_layer, seed=seed, on_episode=rows.append, **settings)
    return best, rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_finds_out_which_layer_matters(seed):
    best, rows = learned(seed)
    rewards = [row.reward for row in rows]
    first, last = sum(rewards[:30]) / 30, sum(rewards[-30:]) / 30
    assert last > first + 0.01  # a quarter of what there is to gain
    draw = random.Random(seed)
    at_random = [
        to_one_layer(shared({n: draw.random() for n in CAPACITIES}, CAPACITIES, 200))
        for _ in range(200)
    ]
    assert last > sum(at_random) / 200 + 0.01
    assert to_one_layer(best) == max(rewards) == rows[-1].best_reward


def test_every_episode_spends_the_budget_exactly():
    for budget, spent in ((0, 0), (1, 1), (333, 333), (850, 850), (9999, 850)):
        rows = []
        allocate(CAPACITIES, budget, lambda counts: 0.5, episodes=5, on_episode=rows.append)
        assert len(rows) == 5
        for row in rows:
            counts = json.loads(row.counts)
            assert sum(counts.values()) == spent
            assert all(0 <= count <= CAPACITIES[name] for name, count in counts.items())


def test_the_seed_decides_and_the_process_generators_rest():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, other = learned(0, episodes=4), learned(1, episodes=4)
    assert torch.get_rng_state().equal(before)
    torch.rand(1)
    again = learned(0, episodes=4)
    assert [row.counts for row in again[1]] == [row.counts for row in first[1]]
    assert [row.counts for row in other[1]] != [row.counts for row in first[1]]


def test_the_time_limit_leaves_one_episode():
    assert len(learned(0, seconds=0)[1]) == 1
    assert sum(learned(0, seconds=0)[0].values()) == 200
    assert allocate({}, 5, lambda counts: 0.0) == {}


def test_baseline_and_entropy_are_recorded_as_they_are():
    rewards = iter([0.5, 0.6, 0.4])
    rows = []
    allocate(CAPACITIES, 100, lambda c: next(rewards), episodes=3, on_episode=rows.append)
    assert [row.baseline for row in rows] == pytest.approx([0.5, 0.51, 0.499])
    assert [row.best_reward for row in rows] == [0.5, 0.6, 0.6]
    assert rows[0].entropy == pytest.approx(2.398, abs=0.01)  # ln 11: nothing is known yet


def test_a_policy_draws_the_probabilities_that_it_reports():
    generator = torch.Generator().manual_seed(3)
    policy = Policy(generator)
    with torch.no_grad():
        policy.head.weight.zero_()
        policy.head.bias.copy_(torch.tensor([0.0] * 10 + [1.0]))
    full = 0
    for _ in range(400):
        counts, log_probability, _ = policy({"a": 10}, 5, generator)
        full += bool(log_probability > -2)
        assert counts == {"a": 5}
    assert full / 400 == pytest.approx(2.71828 / 12.71828, abs=0.08)
