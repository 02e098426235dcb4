"""The command refine-restore."""

import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from recorded import HEADER, record
from torch import nn

from refine.cache import Cache
from refine.cli.restore import main
from refine.sparsity.masks import Masks
from refine.training.checkpoint import save_model


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(6, 6)
        self.first = nn.Linear(6, 6)
        self.first.weight = self.second.weight
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return self.out(self.first(self.norm(self.second(x).relu())))


INPUTS = torch.rand(16, 6, generator=torch.Generator().manual_seed(0))


def outputs(model):
    with torch.no_grad():
        return model.eval()(INPUTS)


def refined(directory):
    """Two cycles of a network in a run's ``directory``, and the network's outputs with 0, 1 and 2
    cycles before it."""
    torch.manual_seed(0)
    model = Tied()
    masks, cache = Masks(model), Cache(directory / "cache")
    given = []
    for cycle in (1, 2):
        model.train()(INPUTS)  # moves the buffers
        given.append(outputs(model))
        cache.keep_network(cycle - 1, model, masks)
        counts = {name: int(mask.sum()) // 4 for name, mask in masks.items()}
        marked = masks.lowest({n: w.detach().abs() for n, w in masks.weights().items()}, counts)
        cache.note_cut(cycle, model, masks, marked)
        masks.cut_(marked)
    save_model(model, directory / "model.safetensors")
    return [*given, outputs(model)]


@pytest.fixture
def run(tmp_path):
    """A finished run with two cycles, of an accuracy of 0.7 in the end."""
    directory = record(tmp_path / "run", 0.7)
    refined(directory)
    return directory


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_list_has_a_row_for_each_number_of_cycles(run, capsys):
    before = contents(run)
    assert main([str(run)]) == 0
    answer = capsys.readouterr()
    header, *rows = [line.split() for line in answer.out.splitlines()]
    assert header[:4] == ["cycles", "epoch", "sparsity", "test"]
    sizes = {
        name: f"{(run / name).stat().st_size / 1000:.2f}"
        for name in (*(f"cache/network-{k}.safetensors.z" for k in (0, 1)), "model.safetensors")
    }
    cuts = [f"{(run / f'cache/cut-{k}.safetensors.z').stat().st_size / 1000:.2f}" for k in (1, 2)]
    first, second, final = ((sizes[name], "kB", name) for name in sizes)
    assert rows == [
        ["0", "2", "0.0%", "40.00%", *first, "-"],
        ["1", "4", "15.0%", "60.00%", *second, "13", "weights", "in", cuts[0], "kB"],
        ["2", "4", "30.0%", "70.00%", *final, "9", "weights", "in", cuts[1], "kB"],
    ]
    assert answer.err == ""
    assert contents(run) == before


@pytest.mark.parametrize("cycles", [0, 1, 2])
def test_each_network_is_restored(cycles, run, tmp_path, capsys):
    expected = refined(run)[cycles]
    before = contents(run)
    assert main([str(run), "--cycle", str(cycles)]) == 0
    path = run / f"model.cycle-{cycles}.safetensors"
    fresh = Tied()
    safetensors.torch.load_model(fresh, path)
    assert outputs(fresh).equal(expected)
    said = capsys.readouterr().out.splitlines()
    past = ("0 cycles", "1 cycle", "2 cycles")[cycles]
    assert said[0] == f"wrote {path}, the network after {past}"
    figures = ("0.0%, test accuracy 40.00%", "15.0%, test accuracy 60.00%",
               "30.0%, test accuracy 70.00%")[cycles]  # fmt: skip
    assert said[1] == f"sparsity {figures}, as recorded after epoch {(2, 4, 4)[cycles]}"
    assert said[2] == f"to start from it: refine-run start_from={path} ..."
    after = contents(run)
    after.pop(path)
    assert after == before


def test_the_file_is_as_a_run_saves_its_network(tmp_path):
    model = Tied()
    directory = record(tmp_path / "run", 0.7)
    Cache(directory / "cache").keep_network(2, model, Masks(model))
    assert main([str(directory), "--cycle", "2"]) == 0
    save_model(model, tmp_path / "saved.safetensors")
    written = (directory / "model.cycle-2.safetensors").read_bytes()
    assert written == (tmp_path / "saved.safetensors").read_bytes()


def test_elsewhere_and_over_a_file_only_if_told(run, tmp_path, capsys):
    path = tmp_path / "new" / "before it.safetensors"
    arguments = [str(run), "--cycle", "1", "--to", str(path)]
    assert main(arguments) == 0
    assert f"start_from='{path}'" in capsys.readouterr().out
    path.write_text("mine")
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        f"refine-restore: {path} exists; --to FILE is for another name, --force overwrites it\n"
    )
    assert path.read_text() == "mine"
    assert main([*arguments, "--force"]) == 0
    safetensors.torch.load_model(Tied(), path)


def test_the_runs_own_network_stays(run, tmp_path, capsys):
    before = contents(run)
    (tmp_path / "link.safetensors").symlink_to(run / "model.safetensors")
    for path in (run / "model.safetensors", tmp_path / "link.safetensors"):
        assert main([str(run), "--cycle", "0", "--to", str(path), "--force"]) == 1
        assert "is the run's own" in capsys.readouterr().err
    assert contents(run) == before


def test_a_run_that_has_not_finished(run, capsys):
    (run / "summary.json").unlink()  # the network that is there is of an earlier end
    rows = [HEADER, "1,0.5,0.9,0.6,0.3,0.0,0.0,85,100,0.001,0,1"]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert main([str(run)]) == 0
    said = capsys.readouterr()
    assert [line.split()[:4] for line in said.out.splitlines()[1:]] == [
        ["0", "1", "0.0%", "30.00%"],
        ["1", "-", "-", "-"],
    ]
    assert main([str(run), "--cycle", "1"]) == 0
    assert "24.1% of the prunable weights are cut; no epoch was measured then" in (
        capsys.readouterr().out
    )


def test_a_run_that_failed_in_a_cut_has_the_network_before_it(run, capsys):
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"status": "failed", "reason": "no space", "cycles": 1}
    (run / "summary.json").write_text(json.dumps(summary))
    assert main([str(run)]) == 0
    assert "cache/network-1" in capsys.readouterr().out.splitlines()[2]


def test_without_figures_networks_are_restored_all_the_same(run, capsys):
    (run / "metrics.csv").write_text("epoch\n")
    assert main([str(run)]) == 0
    said = capsys.readouterr()
    assert said.err == f"note: no figures of {run}: metrics.csv has no rows\n"
    assert len(said.out.splitlines()) == 4
    assert main([str(run), "--cycle", "2"]) == 0


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    return said.err.removeprefix("refine-restore: ").rstrip()


def test_mistakes_are_answered_in_a_line(run, tmp_path, capsys):
    for cycle in (3, -1):
        assert refused(capsys, run, "--cycle", cycle) == (
            f"--cycle: there is no network for {cycle}; there is one for 0, 1, 2"
        )
    assert refused(capsys, tmp_path / "none") == f"{tmp_path / 'none'} does not exist"
    assert refused(capsys, run / "config.yaml").endswith("config.yaml is not a directory")
    assert refused(capsys, tmp_path) == f"{tmp_path} holds no run"
    channels = record(tmp_path / "channels", 0.7, pruner__criterion="group_norm")
    assert refused(capsys, channels).startswith(f"{channels}: this run took channels out")
    plain = record(tmp_path / "plain", 0.7)
    for arguments in ([], ["--cycle", "2"]):
        assert refused(capsys, plain, *arguments) == (
            f"{plain}: this run kept no networks; run it with cache=disk"
        )
    (plain / "cache").mkdir()
    assert "no network is kept yet" in refused(capsys, plain)
    place = tmp_path / "is.safetensors"
    place.mkdir()
    assert "is a directory" in refused(capsys, run, "--cycle", 0, "--to", place)
    below = run / "config.yaml" / "x.safetensors"
    assert "cannot be written" in refused(capsys, run, "--cycle", 0, "--to", below)


def test_a_full_disk_leaves_no_part(run, monkeypatch, capsys):
    def no_space(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("refine.records.files.os.fsync", no_space)
    before = contents(run)
    for cycle in (0, 2):
        assert refused(capsys, run, "--cycle", cycle).endswith(
            "cannot be written (No space left on device)"
        )
    assert contents(run) == before


def test_damaged_files_are_named(run, capsys):
    for path in [*(run / "cache").iterdir(), run / "model.safetensors"]:
        path.write_bytes(b"something")
    for cycle in (0, 1):
        said = refused(capsys, run, "--cycle", cycle)
        assert f"network-{cycle}.safetensors.z is damaged" in said
    assert "model.safetensors is damaged" in refused(capsys, run, "--cycle", 2)
    assert not list(run.glob("model.cycle-*"))
    assert main([str(run)]) == 0
    said = capsys.readouterr()
    assert [line.split()[-1] for line in said.out.splitlines()[1:]] == ["-", "damaged", "damaged"]
    assert "cut-1.safetensors.z is damaged" in said.err


@pytest.mark.parametrize("options", [
    ["--to", "x.safetensors"], ["--force"], ["--cycle", "0", "--to", "metrics.csv"],
    ["--cycle", "first"],
])  # fmt: skip
def test_options_that_do_not_fit_are_answered_in_two_lines(run, capsys, options):
    with pytest.raises(SystemExit) as left:
        main([str(run), *options])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def command(*arguments):
    return [sys.executable, "-m", "refine.cli.restore", *map(str, arguments)]


def test_the_command_leaves_its_exit_code_and_no_traceback(tmp_path):
    done = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"refine-restore: {tmp_path} holds no run\n")
    text = subprocess.run(command("--help"), capture_output=True, text=True, check=True).stdout
    for option in ("--cycle", "--to", "--force"):
        assert f"  {option}" in text
    assert text.count("\n  refine-restore ") == 3


def test_a_reader_that_has_seen_enough_is_no_error(run):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(run), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_and_the_list_import_no_torch(run):
    program = (
        "import sys; from refine.cli.restore import main; main(sys.argv[1:]); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(run)], check=True, capture_output=True)
