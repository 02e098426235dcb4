"""A file of a network brings back that network, and nothing else happens."""

import json
import os
import pickle
import subprocess
import sys
import zlib

import pytest
import safetensors.torch
import torch
from torch import nn

import refine
from refine.cache.coding import GAPS, SHAPE, encoded, packed
from refine.cache.files import VALUES
from refine.errors import NetworkError
from refine.models import resnet20, simple_cnn
from refine.stored.network_file import KEY, WHOLE, Description, as_text, load_model, read, write

DIGITS = Description(
    "simple_cnn",
    {"num_classes": 4, "image_shape": [3, 8, 8]},
    input_shape=(3, 8, 8),
    mean=(0.5, 0.5, 0.5),
    deviation=(0.25, 0.25, 0.25),
    classes=("a", "b", "c", "d"),
)
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ENDINGS = (".safetensors", ".safetensors.z")


def small():
    torch.manual_seed(0)
    return simple_cnn(4, (3, 8, 8)).eval()


def sparse():
    model = small()
    with torch.no_grad():
        for weight in (model.conv2.weight, model.fc1.weight):
            weight.mul_(torch.rand_like(weight) > 0.9)
    return model


def written(path, model, description=DIGITS):
    write(path, model, description, sparse=path.name.endswith(".z"))
    return path


def forged(path, head, model=None):
    """A network's file with another description in its header."""
    tensors = {name: tensor.clone() for name, tensor in (model or small()).state_dict().items()}
    if path.name.endswith(".z"):
        path.write_bytes(encoded({WHOLE + name: t for name, t in tensors.items()}, {KEY: head}))
    else:
        path.write_bytes(safetensors.torch.save(tensors, {KEY: head}))
    return path


def said(**changes):
    return json.dumps(json.loads(as_text(DIGITS)) | changes)


def refused(path, network=None):
    with pytest.raises(NetworkError) as error:
        load_model(path, network)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text or "simple_cnn" in text or "network" in text
    return text


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_network_comes_back(ending, tmp_path):
    model = sparse()
    path = written(tmp_path / f"model{ending}", model)
    assert read(path)[1] == DIGITS
    loaded = refine.load_model(path)
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert torch.equal(model(IMAGES), loaded(IMAGES))
    assert all(weight.requires_grad and weight.is_leaf for weight in loaded.parameters())


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_network_of_other_code_is_given(ending, tmp_path):
    def made():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    model = made().eval()
    path = written(tmp_path / f"model{ending}", model, Description())
    inputs = torch.randn(4, 6)
    assert torch.equal(load_model(path, made())(inputs), model(inputs))
    assert "load_model(path, network=...)" in refused(path)


@pytest.mark.parametrize(("share", "most"), [(0.90, 0.20), (0.98, 0.05)])
def test_a_sparse_file_is_small(share, most, tmp_path):
    torch.manual_seed(0)
    model = simple_cnn()
    with torch.no_grad():
        weights = [w for w in model.parameters() if w.dim() > 1]
        for weight in weights:
            least = weight.abs().flatten().kthvalue(int(share * weight.numel())).values
            weight.mul_(weight.abs() > least)
    dense = written(tmp_path / "model.safetensors", model, Description("simple_cnn"))
    small = written(tmp_path / "model.safetensors.z", model, Description("simple_cnn"))
    assert small.stat().st_size <= most * dense.stat().st_size
    assert torch.equal(load_model(small).fc1.weight, model.fc1.weight)


class Harmful:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("wrap", [bytes, zlib.compress])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_pickle_in_its_place_is_not_executed(ending, wrap, tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / f"model{ending}"
    path.write_bytes(wrap(pickle.dumps(Harmful(mark))))
    refused(path)
    torch.save({"weight": Harmful(mark)}, path)
    refused(path)
    assert not mark.exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_pickle_inside_is_not_executed(ending, tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / f"model{ending}"
    harm = pickle.dumps(Harmful(mark), protocol=0).decode("latin1")
    content = torch.frombuffer(bytearray(pickle.dumps(Harmful(mark))), dtype=torch.uint8)
    tensors = {"conv1.weight": content}
    if ending.endswith(".z"):
        path.write_bytes(encoded({WHOLE + "conv1.weight": content}, {KEY: as_text(DIGITS)}))
    else:
        path.write_bytes(safetensors.torch.save(tensors, {KEY: as_text(DIGITS)}))
    refused(path)
    refused(forged(path, harm))
    refused(forged(path, said(function=harm)))
    refused(forged(path, said(arguments={"num_classes": harm})))
    assert not mark.exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_cut_short_or_changed(ending, tmp_path):
    whole = written(tmp_path / f"model{ending}", sparse()).read_bytes()
    path = tmp_path / f"part{ending}"
    for size in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path)
    path.write_bytes(whole + b"more")
    refused(path)
    refused(tmp_path / f"none{ending}")
    refused(tmp_path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_tensors_of_another_network(ending, tmp_path):
    path = tmp_path / f"model{ending}"
    text = refused(forged(path, as_text(DIGITS), resnet20(4)))
    assert "of another network" in text
    lacks = small()
    lacks.fc2 = nn.Identity()
    assert "lacks fc2" in refused(forged(path, as_text(DIGITS), lacks))
    more = small()
    more.fc3 = nn.Linear(2, 2)
    assert "no fc3" in refused(forged(path, as_text(DIGITS), more))
    # Widths that do not fit together, in a network that has these tensors.
    wrong = small()
    wrong.fc1 = nn.Linear(100, 128)
    refused(forged(path, as_text(DIGITS), wrong))
    classes = small()
    classes.fc2 = nn.Linear(128, 7)
    assert "4 classes" in refused(forged(path, as_text(DIGITS), classes))
    norm = small()
    norm.bn1 = nn.BatchNorm2d(32)
    norm.bn1.running_mean = torch.zeros(30)
    refused(forged(path, as_text(DIGITS), norm))
    refused(written(path, resnet20(4), Description()), small())


@pytest.mark.parametrize(
    "function",
    ["os.system", "system", "__import__", "eval", "refine.models.vgg16", "resnet", "nn", "", 7,
     ["simple_cnn"], {"simple_cnn": 1}, "SimpleCNN", "__all__", "__name__"],
)  # fmt: skip
def test_only_functions_of_refine_models_are_called(function, tmp_path):
    text = refused(forged(tmp_path / "model.safetensors", said(function=function)))
    assert "known: logistic" in text


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": "true"},
        {"num_classes": "10"},
        {"num_classes": -3},
        {"num_classes": 2.5},
        {"num_classes": None},
        {"image_shape": [3, 8]},
        {"image_shape": "3x8"},
        {"num_classes": 4, "image_shape": [3, 1, 1]},
        {"num_classes": {"_target_": "os.system"}},
        {"num_classes": 10**30},
    ],
)
def test_arguments_that_no_network_has(arguments, tmp_path):
    refused(forged(tmp_path / "model.safetensors", said(arguments=arguments)))


@pytest.mark.parametrize(
    "head",
    [
        "", "{", "[]", "3", "null", '"text"', "[" * 100_000, "{}",
        said(version=2), said(version="1"), said(mean=None), said(mean=["a"]),
        said(deviation=[1e400]), said(input_shape=[3, 8.5, 8]), said(input_shape=[3, -8, 8]),
        said(input_shape=[10**400, 8, 8]), said(input_shape=[3, 10**15, 10**15]),
        said(input_shape=[3, 8, 8, 8]), said(input_shape=7), said(classes=4), said(extra=1),
        said(arguments=[1]), said(folded=["bn1"]), said(folded={"bn1": "bn2"}),
        said(folded={"conv1": "bn1"}), said(folded={"bn1": 3}), said(folded={"bn1": None}),
        said(folded={"nothing": "conv1"}), said(folded={"": ""}), said(folded={"bn1": "conv1"}),
        said(folded={"__class__": "conv1"}), said(function=None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_description_is_refused(ending, head, tmp_path):
    refused(forged(tmp_path / f"model{ending}", head))


def bombs(tmp_path):
    """Small files that ask for very much memory."""
    for number, arguments in enumerate(
        [
            {"num_classes": 10**12, "image_shape": [3, 8, 8]},
            {"num_classes": 10**8, "image_shape": [3, 8, 8]},
            {"num_classes": 4, "image_shape": [3, 10**5, 10**5]},
        ]
    ):
        yield forged(tmp_path / f"{number}.safetensors", said(arguments=arguments))
    wide = said(folded={"bn1": "conv1"}, arguments={"num_classes": 10**9, "image_shape": [3, 8, 8]})
    yield forged(tmp_path / "wide.safetensors", wide)
    codes = torch.full((1 << 25,), 255, dtype=torch.uint8)  # 8.5 thousand million zeros
    codes[-1] = 0
    size = 255 * (len(codes) - 1)
    tensors = {
        GAPS + "fc1.weight": codes,
        SHAPE + "fc1.weight": torch.tensor([size]),
        VALUES + "fc1.weight": torch.zeros(0),
    }
    path = tmp_path / "zeros.safetensors.z"
    path.write_bytes(zlib.compress(safetensors.torch.save(tensors, {KEY: as_text(DIGITS)})))
    yield path
    path = tmp_path / "zlib.safetensors.z"
    path.write_bytes(zlib.compress(bytes(1 << 28)))
    yield path
    path = tmp_path / "head.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    yield path


LOAD = """
import resource, sys
from refine.errors import NetworkError
from refine.stored.network_file import load_model
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load_model(path)
    except NetworkError as error:
        print(str(error)[:200])
    else:
        print("loaded", path)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("grown", grown)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts otherwise elsewhere")
def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    files = list(map(str, bombs(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *files],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    *lines, grown = done.stdout.splitlines()
    assert len(lines) == len(files)
    # Tensors say how wide a network is: files of which only the arguments are absurd can be read.
    assert [line for line in lines if line.startswith("loaded")] == lines[:3]
    assert int(grown.split()[1]) < 600_000, grown  # kilobytes; the bombs are of gigabytes


def test_zeros_of_a_sparse_file_that_do_not_fit(tmp_path):
    model = sparse()
    parts = packed({"conv2.weight": (model.conv2.weight != 0, torch.ones(3))})
    path = tmp_path / "model.safetensors.z"
    path.write_bytes(encoded(parts, {KEY: as_text(DIGITS)}))
    refused(path)
