"""The command refine-export, from a run to files with the outputs of the run's network."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, Quiet

import refine
from refine import experiment
from refine.cli import run as refine_run
from refine.evaluation.cost import parameters
from refine.export import semi_structured, work
from refine.export.cli import main
from refine.export.deployment import Deployment
from refine.export.folding import folded
from refine.export.onnx_files import Session
from refine.export.options import NAMES
from refine.export.trained import Trained
from refine.models import simple_cnn
from refine.report.terminal import LogOnly
from refine.stored.network_file import load_model, read, write

RUN = (*SMALL, "dataset.subset_size=400", "save_model=true", "dataset.image_size=16")


@pytest.fixture(scope="session")
def filters(tmp_path_factory):
    """A run of SimpleCNN, half of whose filters are cut."""
    return trained(tmp_path_factory, "pruner.granularity=filter", "pruner.ratio=0.5")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A run of SimpleCNN with 60 % of its weights cut one by one, and a validation split."""
    return trained(tmp_path_factory, "pruner.ratio=0.6", "dataset.validation_size=100")


def trained(factory, *overrides):
    directory = factory.mktemp("run") / "run"
    config = refine_run.composed([*RUN, *overrides, f"output_dir={directory}"])
    LogOnly()
    experiment.run(config, Quiet())
    return directory


@pytest.fixture
def export(capsys, tmp_path):
    def call(run, *options, to="out"):
        place = () if "--to" in options else ("--to", tmp_path / to)
        code = 0
        try:
            code = main([str(run), *map(str, options), *map(str, place)])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return SimpleNamespace(
            code=code, out=captured.out, err=captured.err, directory=tmp_path / to
        )

    return call


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def facts(done):
    return json.loads((done.directory / "export.json").read_text())


def images_of(run):
    data = Trained(run).data
    return next(iter(data.plain(data.test[:64])))[0]


def logits(network, run):
    with torch.no_grad():
        return network(images_of(run))


def test_filters_that_were_cut_are_gone(filters, export):
    before = contents(filters)
    done = export(filters)
    assert (done.code, done.err) == (0, "")
    assert contents(filters) == before
    names = sorted(path.name for path in done.directory.iterdir())
    assert names == ["export.json", "model.safetensors"]  # few zeros remain
    network = refine.load_model(done.directory / "model.safetensors")
    dense = Trained(filters).network()
    assert network.conv3.out_channels == 32
    assert parameters(network) < 0.3 * parameters(dense)
    assert (logits(network, filters) - logits(dense, filters)).abs().max() < 1e-5
    report = facts(done)
    assert report["removed_channels"] == {"conv1": 16, "conv2": 32, "conv3": 32, "fc1": 64}
    assert report["costs"]["exported"]["parameters"] == parameters(network)
    assert report["costs"]["exported"]["macs"] < 0.3 * report["costs"]["dense"]["macs"]
    assert [file["format"] for file in report["files"]] == ["safetensors"]
    for file in report["files"]:
        size = (done.directory / file["file"]).stat().st_size
        assert file["bytes"] == size
        assert math.isclose(file["share"], size / report["dense_bytes"])
        assert f"{size:,}" in done.out
    assert "144 dead channels (" in done.out
    assert "of dense" in done.out


def test_the_default_formats_depend_on_the_zeros(weights, export):
    done = export(weights, "--keep-dead")
    assert [file["format"] for file in facts(done)["files"]] == ["safetensors", "sparse"]
    assert facts(done)["removed_channels"] == {}
    small, whole = (done.directory / f"model.safetensors{end}" for end in (".z", ""))
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    assert torch.equal(load_model(small).fc1.weight, load_model(whole).fc1.weight)


def test_a_network_without_zeros_gets_no_sparse_file_by_default(tmp_path, filters, export):
    run = tmp_path / "dense"
    run.mkdir()
    (run / "config.yaml").write_bytes((filters / "config.yaml").read_bytes())
    write(run / "model.safetensors", Trained(filters).untrained(), Trained(filters).description())
    done = export(run)
    assert [file["format"] for file in facts(done)["files"]] == ["safetensors"]
    assert facts(done)["notes"] == []  # none of the zeros that there are not
    done = export(run, "--format", "sparse", "--force")
    assert [file["format"] for file in facts(done)["files"]] == ["sparse"]


def test_every_format_gives_the_same_outputs(filters, export):
    pytest.importorskip("onnxruntime")
    done = export(filters, "--fold", "--format", "safetensors,sparse,torch,onnx,int8")
    assert (done.code, done.err) == (0, "")
    report = facts(done)
    assert report["folded_norms"] == {"bn1": "conv1", "bn2": "conv2", "bn3": "conv3"}
    wanted = logits(Trained(filters).network(), filters)
    program = torch.export.load(done.directory / "model.pt2").module()
    for network in (
        load_model(done.directory / "model.safetensors"),
        load_model(done.directory / "model.safetensors.z"),
        program,
        Session(done.directory / "model.onnx"),
    ):
        assert (logits(network, filters) - wanted).abs().max() < 1e-4
    by_format = {file["format"]: file for file in report["files"]}
    assert all(by_format[name]["difference"] < 1e-4 for name in by_format if name != "int8")
    assert by_format["int8"]["bytes"] < 0.35 * by_format["onnx"]["bytes"]
    assert abs(by_format["int8"]["accuracy"] - report["accuracy"]) <= 0.03  # of 360 images
    assert "training images" in by_format["int8"]["how"]
    # A batch of one, and one of more images than the example had.
    one = images_of(filters)[:1]
    for name in ("model.onnx", "model.int8.onnx"):
        assert Session(done.directory / name)(one).shape == (1, 10)
    assert program(one).shape == (1, 10)


def test_products_of_8_bit_weights_saturate_on_no_processor(filters, export):
    onnx = pytest.importorskip("onnx")
    done = export(filters, "--fold", "--format", "int8")
    model = onnx.load(done.directory / "model.int8.onnx")
    weights = {
        entry.name: onnx.numpy_helper.to_array(entry).astype(int)
        for entry in model.graph.initializer
        if entry.data_type == onnx.TensorProto.INT8 and len(entry.dims) > 1
    }
    assert len(weights) == 5
    for name, values in weights.items():  # pairs of products are added in 16 bits without VNNI
        assert 2 * 255 * abs(values).max() < 2**15, name
        assert abs(values).max() > 2**5, name


def test_programs_say_how_to_prepare_images_and_hold_no_source_code(filters, export):
    onnx = pytest.importorskip("onnx")
    done = export(filters, "--format", "torch,onnx")
    about = Trained(filters).description()
    model = onnx.load(done.directory / "model.onnx")
    (entry,) = model.metadata_props
    assert tuple(json.loads(entry.value)["mean"]) == about.mean
    extra = {"refine": ""}
    torch.export.load(done.directory / "model.pt2", extra_files=extra)
    assert tuple(json.loads(extra["refine"])["deviation"]) == about.deviation
    for path in (done.directory / "model.onnx", done.directory / "model.pt2"):
        assert b"simple_cnn.py" not in path.read_bytes()
        assert path.stat().st_size < 1.4 * facts(done)["costs"]["exported"]["parameters"] * 4 + 9e4


def test_the_calibration_is_chosen_on_validation_images(weights, export):
    pytest.importorskip("onnxruntime")
    done = export(weights, "--format", "int8")
    (file,) = facts(done)["files"]
    assert file["how"].endswith("chosen on 100 validation images")


@pytest.mark.parametrize("images", [20, 47])
def test_any_number_of_training_images_calibrates(images, tmp_path_factory, export):
    run = trained(tmp_path_factory, f"dataset.subset_size={images}", "trainer.batch_size=10")
    done = export(run, "--format", "int8")
    assert (done.code, done.err) == (0, "")


def test_images_are_prepared_by_the_description_in_the_file(filters, export):
    done = export(filters, "--format", "safetensors")
    _, about = read(done.directory / "model.safetensors")
    data = Trained(filters).data
    pictures = data.test[:64].pixels.permute(0, 3, 1, 2)
    mean, deviation = (torch.tensor(n).view(-1, 1, 1) for n in (about.mean, about.deviation))
    images = (pictures / 255 - mean) / deviation
    assert torch.allclose(images, images_of(filters), atol=1e-5)
    assert about.classes == tuple("0123456789")


def test_a_network_of_the_users_own_code(tmp_path, monkeypatch, export):
    (tmp_path / "ours.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    config = refine_run.composed([*RUN, "model._target_=ours.net", "output_dir=run"])
    LogOnly()
    experiment.run(config, Quiet())
    done = export("run", "--fold", "--format", "safetensors,sparse")
    assert (done.code, done.err) == (0, "")
    import ours

    run = tmp_path / "run"
    network = load_model(done.directory / "model.safetensors.z", network=ours.net(10))
    wanted = logits(Trained(run).network(), run)
    assert (logits(network, run) - wanted).abs().max() < 1e-4
    assert facts(done)["network"] is None


def test_nothing_is_overwritten_without_force(filters, export):
    first = export(filters, "--format", "safetensors")
    before = contents(first.directory)
    again = export(filters, "--format", "safetensors")
    assert again.code == 1
    assert "exists" in again.err
    assert "--force" in again.err
    assert contents(first.directory) == before
    assert export(filters, "--format", "safetensors", "--force").code == 0


def test_the_default_directory_is_in_the_runs(filters, capsys):
    assert main([str(filters), "--format", "safetensors"]) == 0
    assert (filters / "export" / "export.json").is_file()
    for path in (filters / "export").iterdir():
        path.unlink()
    (filters / "export").rmdir()


def one_line(done, *words):
    assert done.code == 1
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("refine-export: ")
    assert all(word in line for word in words), line


def test_mistakes_are_one_line_each(filters, export, tmp_path):
    one_line(export(tmp_path / "none"), "does not exist")
    (tmp_path / "empty").mkdir()
    one_line(export(tmp_path / "empty"), "no config.yaml")
    one_line(export(filters, "--to", filters), "--to", "the run's own")
    (tmp_path / "file").write_text("")
    one_line(export(filters, "--to", tmp_path / "file"), "--to", "not a directory")
    one_line(export(filters, "--to", tmp_path / "file" / "below"), "file")
    unsaved = tmp_path / "unsaved"
    unsaved.mkdir()
    (unsaved / "config.yaml").write_bytes((filters / "config.yaml").read_bytes())
    one_line(export(unsaved), "no model.safetensors", "save_model")
    (unsaved / "model.safetensors").write_bytes(b"nothing")
    one_line(export(unsaved), "model.safetensors holds no network")
    (unsaved / "config.yaml").write_text("model: {")
    one_line(export(unsaved), "config.yaml is damaged")
    (unsaved / "model.safetensors").write_bytes((filters / "model.safetensors").read_bytes())
    (unsaved / "config.yaml").write_text("seed: 1\ndataset: {_target_: refine.datasets.digits}\n")
    one_line(export(unsaved), "config.yaml is damaged")


def test_a_data_set_that_has_moved(filters, export, tmp_path):
    run = tmp_path / "moved"
    run.mkdir()
    text = (filters / "config.yaml").read_text()
    text = text.replace("refine.datasets.digits", "refine.datasets.image_folder")
    (run / "config.yaml").write_text(text.replace("root: data", "root: nowhere"))
    (run / "model.safetensors").write_bytes((filters / "model.safetensors").read_bytes())
    one_line(export(run), "--dataset-root PATH")


def test_every_format_that_can_be_named_can_be_written():
    assert tuple(work.FORMATS) == NAMES


def test_an_unknown_format_is_refused_with_the_known_ones(filters, export):
    done = export(filters, "--format", "safetensors,onx")
    assert done.code == 2
    assert "did you mean onnx?" in done.err


def test_an_extra_that_is_missing_is_named(filters, export, monkeypatch):
    find = work.importlib.util.find_spec
    monkeypatch.setattr(
        work.importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name)
    )
    done = export(filters, "--format", "safetensors,int8")
    one_line(done, "--format: int8 needs onnx", "pip install 'runtime-refinement[export]'")
    assert not done.directory.exists()


@pytest.mark.skipif(semi_structured.usable(), reason="this machine has such a GPU")
def test_two_of_four_needs_a_gpu(filters, export):
    done = export(filters, "--format", "2:4")
    one_line(done, "2:4 needs a CUDA GPU", "--format safetensors")
    assert not done.directory.exists()


def patterned():
    torch.manual_seed(0)
    model = simple_cnn().eval()
    with torch.no_grad():
        fours = model.fc1.weight.view(-1, 4)
        fours.scatter_(1, fours.abs().argsort(1)[:, :2], 0)
        fours[:3] = torch.tensor([[0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 2.0, 3.0]])
    return model


def test_two_of_four_packs_and_unpacks():
    model = patterned()
    assert semi_structured.fitting(model) == ["fc1.weight"]
    weight = model.fc1.weight.detach()
    values, places = semi_structured.packed(weight)
    assert values.shape == (128, 2048)
    assert (places.shape, places.dtype) == ((128, 512), torch.uint8)
    assert torch.equal(semi_structured.unpacked(values, places), weight)
    with pytest.raises(ValueError, match="not of one tensor"):
        semi_structured.unpacked(values, places[:, :-1])
    with torch.no_grad():
        model.fc1.weight[0, :4] = 1
    assert semi_structured.fitting(model) == []


@pytest.mark.skipif(not semi_structured.usable(), reason="needs a GPU with such kernels")
def test_two_of_four_gives_the_same_outputs_on_a_gpu(filters, tmp_path):
    model = patterned()
    run = Trained(filters)
    arguments = {"num_classes": 10, "image_shape": [3, 32, 32]}
    about = replace(run.description(), arguments=arguments, input_shape=(3, 32, 32))
    deployment = Deployment(model, model, model, about, run.data)
    deployment.__dict__["images"] = torch.randn(64, 3, 32, 32)
    written = semi_structured.two_of_four(tmp_path, deployment)
    assert written.difference < 0.02


def test_an_export_that_fails_leaves_no_part(filters, export, monkeypatch, tmp_path):
    def failing(directory, deployment):
        raise RuntimeError("of\nits own")

    broken = work.Format(failing, "model.pt2")
    monkeypatch.setitem(work.FORMATS, "torch", broken)
    done = export(filters, "--format", "safetensors,torch")
    one_line(done, "--format torch", "of its own")
    assert not done.directory.exists()  # nor what could be written before
    assert list(tmp_path.iterdir()) == []


def test_a_folded_network_of_another_architecture_is_refused(tmp_path, filters):
    run = Trained(filters)
    network = folded(run.network(), images_of(filters)[:2]).network
    path = tmp_path / "model.safetensors"
    write(path, network, run.description())  # the description does not say what was folded
    with pytest.raises(refine.errors.NetworkError, match="of another network"):
        load_model(path)


def test_help_needs_no_torch_and_teaches_loading():
    code = (
        "import sys\n"
        "from refine.export.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    *text, last = done.stdout.splitlines()
    assert last == "0 False"
    assert any("refine.load_model(" in line for line in text)
    assert max(map(len, text)) <= 100
