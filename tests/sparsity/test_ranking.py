import pytest
import torch

from refine.sparsity import ranking
from refine.sparsity.ranking import highest, lowest, threshold


def cases():
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(40, 5, 5, generator=generator)
    return {
        "plain": plain,
        "ties": (plain * 2).round(),
        "zeros": plain * (plain > 0.3),
        "equal": torch.full_like(plain, -2.0),
        "sorted": plain.flatten().sort().values.view(40, 5, 5),
        "infinite": torch.where(plain.abs() > 1.5, plain.sign() * torch.inf, plain),
        "double": plain.double() * 1e-300,
        "half": plain.bfloat16(),
        "integer": (plain * 3).long(),
        "other layout": plain.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    }


@pytest.mark.parametrize("few", [0, 1 << 16])
@pytest.mark.parametrize("scores", cases().values(), ids=cases())
def test_lowest_agrees_with_a_stable_sort(monkeypatch, scores, few):
    monkeypatch.setattr(ranking, "FEW", few)
    for alive in (torch.ones(40, 5, 5, dtype=torch.bool), torch.rand(40, 5, 5) < 0.6):
        flat = alive.flatten()
        order = [i for i in scores.flatten().argsort(stable=True).tolist() if flat[i]]
        for count in (0, 1, 2, 17, 300, len(order) // 2, len(order) - 1, len(order)):
            marked = lowest(scores, alive, count)
            assert marked.flatten().nonzero().flatten().tolist() == sorted(order[:count])


@pytest.mark.parametrize("bracket", [(-9.0, -8.0), (8.0, 9.0), (0.1, 0.1), (-0.5, 0.5), (0.0, 9.0)])
@pytest.mark.parametrize("name", ["plain", "ties", "infinite"])
def test_a_bracket_may_lie_anywhere(monkeypatch, bracket, name):
    monkeypatch.setattr(ranking, "bracket", lambda *_: bracket)
    scores = cases()[name]
    alive = torch.ones_like(scores, dtype=torch.bool)
    ordered = scores.flatten().sort().values
    for count in (1, 200, 500, 800, 1000):
        found = threshold([(scores[:15], alive[:15]), (scores[15:], alive[15:])], count)
        value = float(ordered[count - 1])
        assert found.value == value
        assert found.below == [int((part < value).sum()) for part in (scores[:15], scores[15:])]
        assert found.equal == [int((part == value).sum()) for part in (scores[:15], scores[15:])]
        assert sum(found.counts(count)) == count


def test_a_bracket_holds_little(monkeypatch):
    scores = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    alive = torch.ones_like(scores, dtype=torch.bool)
    for count in (1, 1_000, 120_000, 399_999):
        low, high = ranking.bracket([(scores, alive)], len(scores), count, torch.float32)
        kth = scores.kthvalue(count).values
        assert low <= kth <= high
        assert int(((scores > low) & (scores < high)).sum()) < 8 * 400_000 ** (2 / 3)


def test_no_random_number_is_drawn():
    before = torch.get_rng_state()
    lowest(torch.arange(200_000.0), torch.ones(200_000, dtype=torch.bool), 1000)
    assert torch.get_rng_state().equal(before)


def test_nan_is_refused_where_it_lives_only():
    scores = torch.tensor([1.0, float("nan"), 2.0])
    assert lowest(scores, torch.tensor([True, False, True]), 1).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="NaN"):
        lowest(scores, torch.tensor([True, True, False]), 1)
    with pytest.raises(ValueError, match="3 of 2"):
        lowest(scores, torch.tensor([True, False, True]), 3)


@pytest.mark.parametrize("kind", ["spread", "ties", "equal", "bfloat16"])
def test_highest_agrees_with_a_stable_sort(kind):
    for size in (60, 70_000):
        scores = {
            n: torch.randn(size, generator=torch.Generator().manual_seed(i))
            for i, n in enumerate("ab")
        }
        if kind != "spread":
            scores = {n: (s * 3).round() * (kind != "equal") for n, s in scores.items()}
        if kind == "bfloat16":
            scores = {name: score.bfloat16() for name, score in scores.items()}
        dead = {
            n: torch.rand(size, generator=torch.Generator().manual_seed(7)) < 0.7 for n in scores
        }
        every = torch.cat([scores[n][dead[n]].double() for n in scores])
        for count in (0, 1, 17, len(every) // 50, len(every) - 1, len(every)):
            wanted = torch.zeros(len(every), dtype=torch.bool)
            wanted[every.argsort(descending=True, stable=True)[:count]] = True
            marked = highest(scores, dead, count)
            assert torch.cat([marked[n][dead[n]] for n in scores]).equal(wanted)
            assert not any((marked[n] & ~dead[n]).any() for n in scores)


def test_a_misleading_sample_does_not_change_the_choice():
    scores = torch.zeros(300_000)
    scores[::5] = torch.rand(60_000)  # what a stride of five sees is the best of all
    scores[1] = 2.0
    dead = torch.ones_like(scores, dtype=torch.bool)
    marked = highest({"w": scores}, {"w": dead}, 50_000)["w"]
    assert marked.nonzero().squeeze(1).equal(scores.topk(50_000).indices.sort().values)


def test_highest_refuses_nan_at_cut_positions_only():
    scores, dead = torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([True, False, True])
    assert highest({"w": scores}, {"w": dead}, 1)["w"].tolist() == [False, False, True]
    with pytest.raises(ValueError, match="NaN"):
        highest({"w": scores}, {"w": ~dead}, 1)
    with pytest.raises(ValueError, match="3 of 2"):
        highest({"w": torch.ones(3)}, {"w": dead}, 3)
