"""What was cut comes back to the bit, whole or in part."""

import zlib

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from refine.cache import Cache, files, read_network
from refine.cache.coding import packed, unpacked
from refine.errors import SettingError
from refine.pruning.cut import Masked
from refine.pruning.granularity import filter as whole_filters
from refine.refinement import RuntimeRefinement
from refine.regrowth.regrowth import Regrowth
from refine.replay import Replay
from refine.sparsity.masks import Masks
from refine.training.checkpoint import save_model

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(one, other):
    assert one.dtype == other.dtype
    kind = BITS[one.element_size()]
    return torch.equal(one.contiguous().view(kind), other.contiguous().view(kind))


def two_layers(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 20)).to(dtype)


def random_marks(masks, share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(mask.shape, generator=generator) < share) & mask
        for name, mask in masks.items()
    }


def cut(cache, cycle, masks, marked):
    """What the weights were before."""
    before = {name: weight.detach().clone() for name, weight in masks.weights().items()}
    cache.note_cut(cycle, model, masks, marked)
    masks.cut_(marked)
    return before


@pytest.fixture
def model():
    return two_layers()


@pytest.fixture
def masks(model):
    return Masks(model)


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    return Cache(tmp_path / "cache" if request.param == "disk" else None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])  # gaps, bitmaps, all
def test_whatever_the_bits_they_come_back(cache, dtype, share):
    model = two_layers(dtype).to(memory_format=torch.channels_last)
    masks = Masks(model)
    with torch.no_grad():  # -0.0, infinities, and NaN of any payload among them
        for weight in model.parameters():
            bits = BITS[weight.element_size()]
            limits = torch.iinfo(bits)
            weight.view(bits).random_(limits.min, limits.max)
        model[2].weight[0, :4] = torch.tensor([-0.0, torch.inf, -torch.inf, torch.nan])
    marked = random_marks(masks, share)
    marked["2.weight"][0, :4] = True
    before = cut(cache, 1, masks, marked)
    for name, (mask, values) in cache.entry(1).items():
        assert mask.equal(marked[name])
        assert same_bits(values, before[name][mask])
    masks.grow_(*cache.restorable(masks))
    assert masks.surviving == masks.prunable
    assert all(same_bits(weight, before[name]) for name, weight in masks.weights().items())


@pytest.mark.parametrize("size", [0, 1, 7, 8, 254, 255, 256, 511, 3000])
@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_positions_of_any_size_and_number(size, count):
    generator = torch.Generator().manual_seed(size)
    for _ in range(20):
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.randperm(size, generator=generator)[:count]] = True
        values = torch.rand(int(mask.sum()), generator=generator)
        back, same = unpacked(packed({"layer/weight": (mask, values)}))["layer/weight"]
        assert back.equal(mask)
        assert same.equal(values)


def test_positions_are_coded_in_the_shorter_way():
    few, many = torch.zeros(80_000, dtype=torch.bool), torch.zeros(80_000, dtype=torch.bool)
    few[::100], many[::4] = True, True
    tensors = packed({"few": (few, few[few]), "many": (many, many[many])})
    assert len(tensors["gaps/few"]) == 801
    assert len(tensors["bitmap/many"]) == 10_000


def test_only_weights_that_live_are_noted(cache, masks):
    first = random_marks(masks, 0.3)
    cut(cache, 1, masks, first)
    everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
    cut(cache, 2, masks, everything | {"2.weight": first["2.weight"]})
    (mask, _) = cache.entry(2)["0.weight"]
    assert mask.equal(~first["0.weight"])
    assert "2.weight" not in cache.entry(2)  # nothing of it was lost


def test_parts_come_back_by_name_and_cycle(cache, masks):
    first, second = random_marks(masks, 0.3), None
    cut(cache, 1, masks, first)
    second = random_marks(masks, 0.3, seed=1)
    cut(cache, 2, masks, second)
    marked, _ = cache.restorable(masks, cycles=[2])
    assert all(mask.equal(second[name]) for name, mask in marked.items())
    marked, values = cache.restorable(masks, names=["0.*"])
    assert list(marked) == list(values) == ["0.weight"]
    assert marked["0.weight"].equal(first["0.weight"] | second["0.weight"])
    assert set(cache.restorable(masks, names="*.weight")[0]) == set(masks)
    assert cache.restorable(masks, cycles=[]) == ({}, {})
    masks.grow_(*cache.restorable(masks, cycles=[1], names=["2.weight"]))
    assert masks["2.weight"].equal(~second["2.weight"])
    assert masks["0.weight"].equal(~(first["0.weight"] | second["0.weight"]))
    assert "2.weight" not in cache.restorable(masks, cycles=[1])[0]  # it lives


@pytest.mark.parametrize("share", [0.0, 0.29, 0.5, 0.999, 1.0])
def test_a_share_is_of_all_tensors_together_and_exact(cache, share, masks):
    marked = random_marks(masks, 0.4)
    before = cut(cache, 1, masks, marked)
    count = sum(int(mask.sum()) for mask in marked.values())
    magnitudes = torch.cat([before[name][marked[name]].abs() for name in masks])
    greatest = magnitudes.sort(descending=True).values[: int(share * count + 0.5)]
    coming, values = cache.restorable(masks, share=share)
    assert sum(int(mask.sum()) for mask in coming.values()) == len(greatest)
    found = torch.cat([*values.values(), torch.empty(0)]).abs()
    assert found.sort(descending=True).values.equal(greatest)
    for name, value in values.items():
        assert value.equal(before[name][coming[name]])
    masks.grow_(coming, values)


def test_half_of_an_odd_number_is_rounded_up():
    model = nn.Linear(50, 1)
    masks, cache = Masks(model), Cache()
    cut(cache, 1, masks, {"weight": torch.ones(1, 50, dtype=torch.bool)})
    assert int(cache.restorable(masks, share=0.29)[0]["weight"].sum()) == 15  # of 14.5


def test_equal_magnitudes_come_back_in_the_order_of_their_index(cache, model, masks):
    for weight in model.parameters():
        nn.init.ones_(weight)
    everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
    cut(cache, 1, masks, everything)
    marked, _ = cache.restorable(masks, share=0.5)
    assert list(marked) == ["0.weight"]
    assert marked["0.weight"].flatten().nonzero().flatten().tolist() == list(range(188))


def test_what_was_cut_twice_has_its_latest_value(cache):
    model = nn.Linear(4, 1, bias=False)
    masks = Masks(model)
    model.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    cut(cache, 1, masks, {"weight": torch.tensor([[True, True, False, False]])})
    masks.grow_({"weight": torch.tensor([[True, False, False, False]])}, {"weight": torch.ones(1)})
    model.weight.data[0, 0] = 7.0
    cut(cache, 2, masks, {"weight": torch.tensor([[True, False, True, False]])})
    assert cache.restorable(masks)[1]["weight"].tolist() == [7.0, 2.0, 3.0]
    assert cache.restorable(masks, cycles=[1])[1]["weight"].tolist() == [1.0, 2.0]


def test_a_cycle_that_is_done_again_replaces_what_it_was(cache):
    model = nn.Linear(4, 1)
    masks = Masks(model)
    for going in ([[True, False, False, False]], [[False, True, True, False]]):
        cache.note_cut(1, model, masks, {"weight": torch.tensor(going)})
    assert cache.cycles == [1]
    assert cache.entry(1)["weight"][0].tolist() == going


def test_a_cycle_without_a_cut_has_an_empty_entry(cache):
    model = nn.Linear(4, 1)
    masks = Masks(model)
    cache.note_cut(1, model, masks, {})
    assert (cache.cycles, cache.entry(1), cache.restorable(masks)) == ([1], {}, ({}, {}))


def test_mistakes_are_told(cache, masks):
    cut(cache, 1, masks, random_marks(masks, 0.3))
    with pytest.raises(ValueError, match="cycle 3 cut is kept; cycles that are: 1"):
        cache.restorable(masks, cycles=[1, 3])
    with pytest.raises(ValueError, match=r"'conv\*' fits none of the tensors 0.weight, 2.weight"):
        cache.restorable(masks, names=["0.*", "conv*"])
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share"):
            cache.restorable(masks, share=share)
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"of another network: 0.weight"):
        cache.restorable(Masks(other))


def test_sizes_are_those_on_disk_or_in_memory(tmp_path, masks):
    kept = [Cache(), Cache(tmp_path)]
    for cache in kept:
        for cycle in (1, 2):
            cache.note_cut(cycle, model, masks, random_marks(masks, 0.3, seed=cycle))
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    for cache in kept:
        assert [cache.bytes_of(1), cache.bytes_of(2)] == sizes
        assert cache.bytes == sum(sizes)
    marked = random_marks(masks, 0.3, seed=1)
    assert files.marked(tmp_path / "cut-1.safetensors.z") == sum(
        int(mask.sum()) for mask in marked.values()
    )


def test_the_state_goes_through_a_checkpoint(cache, tmp_path, masks):
    for cycle in (1, 2):
        cut(cache, cycle, masks, random_marks(masks, 0.3, seed=cycle))
    torch.save(cache.state_dict(), tmp_path / "state.pt")
    again = Cache(cache.directory)
    assert again.cycles == []  # what lies in a directory is of an earlier run until told so
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (again.cycles, again.bytes) == ([1, 2], cache.bytes)
    for name, value in again.restorable(masks)[1].items():
        assert value.equal(cache.restorable(masks)[1][name])


def test_a_missing_file_is_an_error_on_use_only(tmp_path, masks):
    cache = Cache(tmp_path)
    for cycle in (1, 2):
        cut(cache, cycle, masks, random_marks(masks, 0.3, seed=cycle))
    state = cache.state_dict()
    (tmp_path / "cut-2.safetensors.z").unlink()
    again = Cache(tmp_path)
    again.load_state_dict(state)
    assert again.restorable(masks, cycles=[1])[0]
    for use in (lambda: again.bytes, lambda: again.entry(2), lambda: again.restorable(masks)):
        with pytest.raises(ValueError, match=r"cut-2.safetensors.z is missing$"):
            use()
    inside = Cache()
    inside.load_state_dict(state)
    with pytest.raises(ValueError, match="cycle 1 cut is in a file, and this cache is in memory"):
        inside.restorable(masks)


def test_the_reference_is_the_network_with_everything_back(cache):
    model = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10), nn.Linear(10, 4))
    masks = Masks(model)
    dense = cut(cache, 1, masks, random_marks(masks, 0.3))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    marked = random_marks(masks, 0.3, seed=1)
    later = cut(cache, 2, masks, marked)
    unknown = {"0.weight": torch.zeros(10, 10, dtype=torch.bool)}  # cut, but not by a cycle
    unknown["0.weight"][masks["0.weight"].nonzero()[0].unbind()] = True
    masks.cut_(unknown)
    reference = cache.denser(model, masks)
    now = {name: weight.detach().clone() for name, weight in masks.weights().items()}
    first = random_marks({name: torch.ones_like(mask) for name, mask in masks.items()}, 0.3)
    for name, value in reference.values.items():
        expected = torch.where(first[name], dense[name], now[name])
        assert value.equal(torch.where(marked[name], later[name], expected))
        assert reference.masks[name].equal(~unknown.get(name, torch.zeros_like(masks[name])))
    assert set(reference.others) == set(model.state_dict()) - set(masks)
    assert all(weight.equal(now[name]) for name, weight in masks.weights().items())
    with reference.in_place(model):
        assert model[0].weight.equal(reference.values["0.weight"])


class Tied(nn.Module):
    """The first name of the weight, by which masks know it, is not the first in the alphabet."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(6, 6)
        self.first = nn.Linear(6, 6)
        self.first.weight = self.second.weight
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("unsaved", torch.ones(2), persistent=False)

    def forward(self, x):
        return self.first(self.norm(self.second(x)))


@pytest.mark.parametrize("make", [Tied, two_layers], ids=["tied", "plain"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_network_comes_back_to_the_byte(make, share, tmp_path):
    model = make().to(memory_format=torch.channels_last)
    masks, cache = Masks(model), Cache(tmp_path)
    masks.cut_(random_marks(masks, share))
    if make is Tied:
        model(torch.rand(8, 6))  # so that the buffers are other than at first
    cache.keep_network(1, model, masks)
    state, alive = read_network(tmp_path / "network-1.safetensors.z")
    save_model(model, tmp_path / "model.safetensors")
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert state.keys() == saved.keys()
    assert all(same_bits(state[n], t) for n, t in saved.items() if t.is_floating_point())
    assert all(state[name].equal(tensor) for name, tensor in saved.items())
    assert alive.keys() == masks.keys()
    assert all(mask.equal(masks[name]) for name, mask in alive.items())


def test_a_tied_weight_is_restored(cache):
    model = Tied()
    masks = Masks(model)
    before = cut(cache, 1, masks, random_marks(masks, 0.5))
    masks.grow_(*cache.restorable(masks))
    assert model.first.weight.equal(before["second.weight"])
    assert model.first.weight is model.second.weight


def test_attached_channels_are_zero_in_the_network(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    masks = Masks(model)
    masks.attach(model, "0.weight", ["0.bias", "1.weight", "1.bias"])
    masks.cut_({"0.weight": torch.tensor([[False] * 4, [True] * 4, [False] * 4])})
    Cache(tmp_path).keep_network(1, model, masks)
    state, _ = read_network(tmp_path / "network-1.safetensors.z")
    assert all(state[name].equal(tensor) for name, tensor in model.state_dict().items())
    assert state["1.weight"].tolist() == [1.0, 0.0, 1.0]


def test_a_sparse_network_is_a_small_file(tmp_path):
    model = nn.Linear(1000, 300)
    masks, cache = Masks(model), Cache(tmp_path)
    cache.keep_network(0, model, masks)
    masks.cut_(random_marks(masks, 0.95))
    cache.keep_network(1, model, masks)
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert sizes[1] < 0.07 * sizes[0]


def test_a_network_of_zeros_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FREE_BYTES", 1000)  # so that it would look like a bomb
    model = nn.Linear(1000, 100)
    nn.init.zeros_(model.weight)
    Cache(tmp_path).keep_network(0, model, Masks(model))
    state, _ = read_network(tmp_path / "network-0.safetensors.z")
    assert state["weight"].equal(model.weight)


def test_networks_need_a_directory_and_tensors(tmp_path):
    class Strange(nn.Linear):
        def get_extra_state(self):
            return {"more": "than tensors"}

    model = Strange(2, 2)
    with pytest.raises(ValueError, match="directory"):
        Cache().keep_network(0, model, Masks(model))
    with pytest.raises(SettingError, match="more than tensors"):
        Cache(tmp_path).keep_network(0, model, Masks(model))
    assert not list(tmp_path.iterdir())


BOMB = zlib.compress(bytes(files.FREE_BYTES * 2), 9)
FORGED = {
    "another size": {"values/a": torch.ones(1), "shape/a": torch.tensor([9]),
                     "bitmap/a": torch.ones(1, dtype=torch.uint8)},
    "a huge size": {"values/a": torch.ones(1), "shape/a": torch.tensor([1 << 50]),
                    "gaps/a": torch.tensor([0, 3], dtype=torch.uint8)},
    "numbers": {"values/a": torch.ones(1), "shape/a": torch.tensor([1 << 50]),
                "gaps/a": torch.tensor([0, (1 << 50) - 2])},
    "no positions": {"values/a": torch.ones(1), "shape/a": torch.tensor([9])},
    "values": {"values/a": torch.ones(2), "shape/a": torch.tensor([8]),
               "bitmap/a": torch.ones(1, dtype=torch.uint8)},
}  # fmt: skip
DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "with more": lambda content: content + b"more",
    "flipped": lambda content: content[:99] + bytes([content[99] ^ 16]) + content[100:],
    "foreign": lambda content: b"PK" + content,
    "no tensors": lambda content: zlib.compress(b"\x05\0\0\0\0\0\0\0hello"),
    "bomb": lambda content: BOMB,
} | {
    name: lambda content, forged=forged: zlib.compress(safetensors.torch.save(forged))
    for name, forged in FORGED.items()
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_in_a_line(damage, tmp_path, model, masks):
    cache = Cache(tmp_path)
    cache.keep_network(0, model, masks)
    cut(cache, 1, masks, random_marks(masks, 0.3))
    for path in list(tmp_path.iterdir()):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
        kind = path.name.partition("-")[0]
        with pytest.raises(ValueError, match=rf"{kind}-\d.safetensors.z is damaged") as refused:
            cache.entry(1) if kind == "cut" else read_network(path)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < len(str(path)) + 200


@pytest.mark.parametrize("damage", ["empty", "foreign", "no tensors", "bomb"])
def test_a_damaged_head_is_named_too(damage, tmp_path):
    path = tmp_path / "cut-1.safetensors.z"
    path.write_bytes(DAMAGE[damage](b"something"))
    with pytest.raises(ValueError, match=r"cut-1.safetensors.z is damaged"):
        files.marked(path)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, model, masks):
    cache = Cache(tmp_path)
    cache.note_cut(1, model, masks, random_marks(masks, 0.3))
    before = (tmp_path / "cut-1.safetensors.z").read_bytes()

    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("refine.records.files.os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        cache.note_cut(1, model, masks, random_marks(masks, 0.5))
    with pytest.raises(OSError, match="No space"):
        cache.note_cut(2, model, masks, random_marks(masks, 0.5))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
    assert cache.cycles == [1]


def test_a_channel_lives_again_as_a_whole():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
    ).eval()
    with torch.no_grad():
        model[1].bias.uniform_()
    images, labels = torch.randn(4, 1, 8, 8), torch.randint(0, 3, (4,))
    pruner = Masked(granularity=whole_filters, downscale_factor=1.0)
    refinement = RuntimeRefinement(model, pruner, cache=Cache(), replay=Replay(steps=0))
    before = model(images)
    refinement.refinement_cycle([(images, labels)], 0.5)
    assert not model(images).equal(before)
    counts = refinement.restore()
    assert list(counts) == ["0.weight"]
    assert model(images).equal(before)
    assert refinement.sparsity == 0


def test_what_is_restored_stays_while_only_regrown_weights_train():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    loader = [(torch.randn(16, 8), torch.randint(0, 3, (16,)))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    refinement = RuntimeRefinement(
        model, cache=Cache(), replay=Replay(steps=0), regrowth=Regrowth(budget=0.05, only_epochs=3)
    )
    refinement.refinement_cycle(loader, 0.5)
    refinement.restore(cycles=1)
    restored = [weight.detach().clone() for weight in refinement.masks.weights().values()]
    F.cross_entropy(model(loader[0][0]), loader[0][1]).backward()
    optimizer.step()
    for weight, before in zip(refinement.masks.weights().values(), restored, strict=True):
        assert weight[before != 0].equal(before[before != 0])


def test_a_cycle_that_fails_after_its_cut_has_not_been_one():
    model = nn.Linear(8, 3)
    cache = Cache()
    refinement = RuntimeRefinement(model, cache=cache, replay=Replay(steps=0))

    def recover():
        raise ValueError("no step is left")

    with pytest.raises(ValueError, match="no step"):
        refinement.refinement_cycle(None, 0.5, recover=recover)
    refinement.refinement_cycle(None, 0.5)
    assert cache.cycles == [1]
    assert sum(refinement.restore().values()) == 12
    assert refinement.sparsity == 0
