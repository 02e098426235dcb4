"""The command refine-bench, and what it measures. No absolute time is asserted."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from conftest import Quiet
from torch import nn

from refine import experiment
from refine.bench import summary
from refine.bench.candidates import of_runs
from refine.bench.cli import main
from refine.bench.forms import forms
from refine.bench.names import FORMS, ON_CPU, ON_GPU
from refine.bench.picture import speedups
from refine.bench.rows import BenchRow, as_csv
from refine.bench.timing import MeasureOptions, measured, prepare
from refine.cli import run as runner
from refine.evaluation.latency import interleaved, median, p95
from refine.evaluation.peak_memory import peak_bytes
from refine.export.trained import Trained
from refine.report.terminal import LogOnly
from refine.sparsity.shrink import Smaller, smaller_
from refine.stored import network_file

QUICK = ("--repeats", "1", "--batch", "1,3", "--device", "cpu", "--test-images", "40")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of half its weights cut, by single weights."""
    directory = tmp_path_factory.mktemp("bench") / "unstructured"
    config = runner.composed(
        [
            f"output_dir={directory}", "dataset.subset_size=100", "trainer.epochs=2",
            "dataset.image_size=8", "schedule.interval=1", "pruner.ratio=0.5", "replay=none",
        ]
    )  # fmt: skip
    LogOnly()
    experiment.run(config, Quiet())
    return directory


@pytest.fixture
def run_directory(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "unstructured")


@pytest.fixture
def smaller(trained, tmp_path):
    """The same run with half the channels of the second convolution removed."""
    directory = shutil.copytree(trained, tmp_path / "smaller")
    network = Trained(directory).network()
    half = torch.arange(32)
    gone = {"conv2.weight": {0: half}, "conv2.bias": {0: half}, "conv3.weight": {1: half}}
    gone |= {f"bn2.{own}": {0: half} for own in ("weight", "bias", "running_mean", "running_var")}
    smaller_(network, Smaller.without(network, gone))
    safetensors.torch.save_model(network, str(directory / "model.safetensors"))
    return directory


def table(directory):
    with (directory / "bench.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_masked_weights_promise_nothing(run_directory, capsys):
    assert main([str(run_directory), "--form", "eager,folded", *QUICK]) == 0
    rows = table(run_directory / "bench")
    assert [(r["contestant"], r["form"], r["batch"]) for r in rows] == [
        (contestant, form, batch)
        for batch in ("1", "3")
        for form in ("eager", "folded")
        for contestant in ("dense", "refined")
    ]
    for row in rows:
        assert float(row["promised_speedup"]) == 1
        assert row["parameters"] == rows[0]["parameters"]
        assert 0 < float(row["fastest_ms"]) <= float(row["median_ms"]) <= float(row["p95_ms"])
        images = int(row["batch"]) / float(row["median_ms"]) * 1e3
        assert float(row["images_per_second"]) == pytest.approx(images)
        assert float(row["difference"]) < 1e-4
        assert (row["accuracy"] == "") == (row["contestant"] == "dense")
    assert {row["speedup"] for row in rows if row["contestant"] == "dense"} == {"1.0"}
    assert rows[1]["test_images"] == "40"
    assert int(rows[1]["nonzero_parameters"]) < 0.6 * int(rows[1]["parameters"])
    size = (run_directory / "model.safetensors").stat().st_size
    assert {row["file_bytes"] for row in rows if row["contestant"] == "refined"} == {str(size)}
    record = json.loads((run_directory / "bench" / "bench.json").read_text())
    assert record["environment"]["processor"]
    assert record["environment"]["threads"] == torch.get_num_threads() == int(rows[0]["threads"])
    assert (run_directory / "bench" / "bench.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "of its parameters are 0, and it has as many multiply-accumulates" in shown


def test_a_smaller_network_and_its_export_beside_a_trained_dense_one(smaller, trained, tmp_path):
    run = Trained(smaller)
    (smaller / "export").mkdir()
    network_file.write(smaller / "export/model.safetensors", run.network(), run.description())
    to = tmp_path / "to"
    options = ["--dense", str(trained), "--form", "eager", "--to", str(to)]
    assert main([str(smaller), str(smaller), *options, *QUICK]) == 0
    rows = [row for row in table(to) if row["batch"] == "1"][:3]
    assert [row["contestant"] for row in rows] == ["dense", "refined", "exported"]
    dense, refined, exported = rows
    macs = 9 * (64 * 3 * 32 + 16 * 32 * 64 + 4 * 64 * 64) + 64 * 2 * 2 * 128 + 1280
    less = 9 * (16 * 32 * 32 + 4 * 32 * 64)
    assert (int(dense["macs"]), int(refined["macs"])) == (macs, macs - less)
    assert float(refined["promised_speedup"]) == pytest.approx(macs / (macs - less))
    assert exported["accuracy"] == refined["accuracy"] != ""
    assert dense["accuracy"]
    assert int(exported["memory_bytes"]) < int(dense["memory_bytes"])
    assert int(refined["peak_bytes"]) <= int(dense["peak_bytes"])


def test_every_form_gives_similar_logits(trained, tmp_path):
    """Without the compiled ones, which take a minute: see the long test."""
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    device = torch.device("cpu")
    known = forms(device, tmp_path)
    assert tuple(known) == ON_CPU
    chosen = [form for name, form in known.items() if not name.startswith("compiled")]
    options = MeasureOptions(device, (1, 3), 1, None)
    (candidates,) = of_runs([trained], None, None, 40)
    prepared, skipped = prepare(candidates, chosen, options, lambda text: None)
    assert not skipped
    rows = measured(prepared, options, lambda text: None)
    assert len(rows) == 2 * len(chosen) * len(candidates)
    for row in rows:
        logits = float(candidates[1].network(candidates[1].deployment.images).detach().abs().max())
        bound = 1e-4 if row.precision == "fp32" else 0.2 * logits
        assert row.difference < bound, row.form
    for one in prepared:
        if one.candidate.trained:
            assert one.accuracy is not None


@pytest.mark.long
@pytest.mark.parametrize("name", ["compiled", "compiled-bf16"])
def test_compiled_forms_give_similar_logits(trained, tmp_path, name):
    form = forms(torch.device("cpu"), tmp_path)[name]
    deployment = of_runs([trained], None, None, 40)[0][1].deployment
    predict = form.prepare(deployment)
    for batch in (1, 2, 7):  # also sizes that it was not compiled with
        images = deployment.images[:batch]
        with torch.no_grad():
            wanted = deployment.network(images)
        close = 1e-4 if name == "compiled" else 0.2 * float(wanted.abs().max())
        assert float((predict(form.laid_out(images)) - wanted).abs().max()) < close


def test_what_is_missing_or_fails_is_named_and_left_out(trained, tmp_path, monkeypatch):
    (candidates,) = of_runs([trained], None, None, 40)
    options = MeasureOptions(torch.device("cpu"), (1,), 1, None)
    eager = forms(torch.device("cpu"), tmp_path)["eager"]

    def fails(deployment):
        raise RuntimeError("no compiler\nwas found")

    missing = replace(eager, name="missing", needs=("no_such_package",))
    broken = replace(eager, name="broken", prepare=fails)
    prepared, skipped = prepare(candidates, [missing, broken, eager], options, lambda text: None)
    assert {one.form.name for one in prepared} == {"eager"}
    assert skipped["missing"].startswith("no_such_package not installed: pip install")
    assert skipped["broken (dense of unstructured)"] == "RuntimeError: no compiler was found"


def test_nothing_of_the_run_is_changed(run_directory):
    before = {p.name: p.read_bytes() for p in run_directory.iterdir() if p.is_file()}
    assert main([str(run_directory), "--form", "eager", *QUICK]) == 0
    assert {p.name: p.read_bytes() for p in run_directory.iterdir() if p.is_file()} == before
    assert {p.name for p in run_directory.iterdir()} == {*before, "bench"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--form", "egaer"], "--form: there is no 'egaer'; did you mean eager?"),
        (["--batch", "8,x"], "--batch: 'x' is not a whole number above 0"),
        (["--repeats", "0"], "--repeats: '0' is not a whole number above 0"),
        (["--repeats", "2", "--seconds", "3"], "not allowed with argument"),
        (["--seconds", "0"], "--seconds: a number above 0"),
    ],
)
def test_options_that_do_not_fit(run_directory, capsys, options, problem):
    with pytest.raises(SystemExit) as stopped:
        main([str(run_directory), *options])
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err


def test_errors_are_one_line(run_directory, tmp_path, capsys):
    def said(*arguments):
        assert main([*arguments, "--form", "eager", *QUICK]) == 1
        error = capsys.readouterr().err
        assert error.startswith("refine-bench: ")
        assert error.count("\n") == 1
        return error

    assert "does not exist" in said(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    (run_directory / "bench").mkdir()
    (run_directory / "bench" / "bench.csv").write_text("mine")
    assert "overwrite it with --force" in said(str(run_directory))
    assert (run_directory / "bench" / "bench.csv").read_text() == "mine"
    assert main([str(run_directory), "--form", "eager", "--force", *QUICK]) == 0
    assert "is a file" in said(str(run_directory), "--to", str(run_directory / "config.yaml"))
    (run_directory / "model.safetensors").unlink()
    assert "no model.safetensors" in said(str(run_directory), "--force")


def test_a_form_of_another_device_is_named(run_directory, capsys):
    assert main([str(run_directory), "--form", "eager-fp16", *QUICK]) == 1
    assert "eager-fp16: is not measured on cpu" in capsys.readouterr().err
    assert set(FORMS) == {*ON_CPU, *ON_GPU}


def test_help_imports_no_torch():
    program = (
        "import sys\nfrom refine.bench.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout


def test_turns_are_interleaved_in_the_order_of_a_seed():
    calls = []

    def one(name):
        def function():
            calls.append(name)
            torch.zeros(()).add(1)

        return function

    functions = {name: one(name) for name in "abc"}
    times = interleaved(functions, repeats=6, warmup=1, seed=1)
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("abc", 6)
    turns = re.findall(r"(\w)\1*", "".join(calls))
    assert set(turns[:3]) == set("abc")
    assert turns != list("abc") * 7
    assert min(map(min, times.values())) > 0
    assert len(interleaved(functions, seconds=0.001)["a"]) >= 5
    for wrong in ({}, {"repeats": 1, "seconds": 1.0}):
        with pytest.raises(ValueError, match="either"):
            interleaved(functions, **wrong)


def test_the_device_is_waited_for_before_and_after_each_call():
    events = []
    interleaved(
        {"a": lambda: (events.append("call"), torch.zeros(1_000_000).sort())},
        repeats=2,
        warmup=1,
        synchronize=lambda: events.append("wait"),
    )
    assert events.count("wait") == 6
    assert events[0] == events[-1] == "wait"


def test_quantiles():
    assert median([3.0, 1.0, 2.0]) == 2
    assert p95([float(n) for n in range(101)]) == pytest.approx(95)
    assert p95([7.0]) == 7


def test_peak_memory_counts_what_lives_at_once():
    model = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 1), nn.Flatten())
    assert peak_bytes(model.train(), torch.zeros(2, 4)) == 4 * 2 * (100 + 100)
    assert model.training
    in_place = nn.Sequential(nn.Linear(4, 100), nn.ReLU(inplace=True))
    assert peak_bytes(in_place, torch.zeros(2, 4)) == 4 * 2 * 100


def bench_row(**changes):
    """A row with these changes."""
    row = BenchRow(
        run="a", contestant="refined", form="eager", precision="fp32", device="cpu", threads=2,
        batch=32, median_ms=10.0, fastest_ms=9.0, p95_ms=11.0, images_per_second=3200.0, calls=9,
        speedup=1.31, promised_speedup=2.0, macs=50, parameters=100, nonzero_parameters=100,
        file_bytes=200, memory_bytes=400, peak_bytes=10, accuracy=0.9, test_images=1000,
        difference=0.0,
    )  # fmt: skip
    return replace(row, **changes)


DENSE = bench_row(contestant="dense", speedup=1.0, promised_speedup=1.0, macs=100, file_bytes=400)


def test_no_gain_is_said():
    zeros = {"promised_speedup": 1.0, "nonzero_parameters": 50, "file_bytes": 400}
    rows = [
        DENSE,
        bench_row(speedup=0.98, **zeros),
        bench_row(form="openvino", speedup=1.03, **zeros),
    ]
    said = summary.sentences(rows)
    assert said[0] == (
        "a, refined: 50% of its parameters are 0, and it has as many multiply-accumulates: no "
        "speed-up on this CPU in any form (0.98x to 1.03x, batches of 32)"
    )
    assert "the zeros are in it" in said[1]
    smaller = [DENSE, bench_row(speedup=1.01)]
    assert "2.0x fewer multiply-accumulates, but no speed-up" in summary.sentences(smaller)[0]


def test_a_gain_is_said_with_what_it_falls_short_of():
    rows = [
        DENSE, bench_row(), bench_row(form="openvino", speedup=1.9),
        bench_row(form="folded", speedup=1.0),
        bench_row(form="onnxruntime-int8", precision="int8", accuracy=0.896),
    ]  # fmt: skip
    said = summary.sentences(rows)
    assert said[0] == (
        "a, refined: 2.0x fewer multiply-accumulates gave 1.90x in the form openvino and 1.00x in "
        "folded with batches of 32 on this CPU; no gain in folded (1.00x)"
    )
    assert said[1] == "a, refined: its file is 50.0% of the dense one, its memory 100.0%"
    assert "89.60% of 1,000 test images right, fp32 90.00% (-0.40 points)" in said[2]
    assert "less than promised" in summary.sentences([DENSE, bench_row()])[0]


def test_a_busy_machine_is_said():
    busy = bench_row(median_ms=30.0)
    assert summary.sentences([DENSE, busy])[0].startswith("other programs were running")
    assert summary.reference_batch([bench_row(batch=8), bench_row(batch=128)]) == 8
    assert summary.reference_batch([bench_row(batch=64)]) == 64


def test_the_table_and_the_picture_are_of_the_rows():
    rows = [
        DENSE,
        bench_row(),
        bench_row(run="b", contestant="exported", form="openvino", speedup=None),
    ]
    lines = as_csv(rows).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("run,contestant,form,precision,device,threads,batch,median_ms")
    figure = speedups([*rows, bench_row(run="b", contestant="exported", form="openvino")])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a, refined", "b, exported"]
    assert [name.get_text() for name in figure.axes[-1].get_xticklabels()] == ["eager", "openvino"]
    assert speedups([DENSE]).axes  # also if nothing was compared


def test_the_picture_has_a_bar_for_each_form_and_batch():
    forms, batches = ("eager", "openvino", "compiled"), (1, 8, 128)
    rows = [DENSE] + [
        bench_row(form=form, batch=batch, speedup=1 + 0.1 * forms.index(form) + 0.01 * batch)
        for form in forms
        for batch in batches
    ]
    figure = speedups(rows)
    (axes,) = figure.axes
    assert len(axes.patches) == 9
    assert [bar.get_height() for bar in axes.patches[:3]] == pytest.approx([1.01, 1.08, 2.28])
    places = [bar.get_x() for bar in axes.patches]
    assert places == sorted(places)  # beside each other
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-2:] == ["as promised by MACs", "no gain"]
    assert {*labels} >= {"batch 1", "batch 8", "batch 128"}
    assert (axes.get_yscale(), axes.get_ylim()[0]) == ("linear", 0)


def test_gains_far_apart_are_bars_up_and_down_from_no_gain():
    rows = [bench_row(speedup=40.0), bench_row(form="openvino", speedup=0.5)]
    (axes,) = speedups([DENSE, *rows]).axes
    assert axes.get_yscale() == "log"
    assert [(bar.get_y(), bar.get_height()) for bar in axes.patches] == [(1, 39), (1, -0.5)]


def test_ctrl_c_is_a_line(trained, monkeypatch, capsys, tmp_path):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("refine.bench.cli._bench", interrupted)
    assert main([str(trained), "--to", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "refine-bench: interrupted\n"
