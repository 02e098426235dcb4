"""Does a run survive kills, damaged checkpoints and full disks?

    python scripts/fault_test.py [kills=30] [only=NAME,…] [home=results/faults] [runs=200]

Each fault really happens to a small run of the digits, with ``refine-run`` in its own process,
which is forked from one that has imported PyTorch already:

    kill         SIGKILL at random moments, from the start of the run to its end
    checkpoint   SIGKILL while a checkpoint is being written
    cycle        SIGKILL between a cut and the end of its replay
    term         SIGTERM at random moments
    cut_short    the latest checkpoint cut to 0, 10, … 90 % of its length
    full         a disk that is full while the tables, the checkpoint or the figure is written
    many         no fault: 200 tiny runs in one sweep; memory and the time of the report

Each run is resumed by ``refine-run resume=DIR`` and compared with an undisturbed one:
``metrics.csv`` and ``cycles.csv`` except times, and every bit of the weights. The disk is a
tmpfs where one may be mounted, else a limit on the size of a file. Writes ``faults.md``; the exit
code is 1 if anything differs.
"""

import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from forked import Forked

from refine.records.files import write_text
from refine.records.rows import CHECKPOINT_FILES
from refine.training.checkpoint import Damaged, read

RUN = (
    "dataset.subset_size=400", "dataset.augment=shift_flip", "trainer.epochs=6",
    "trainer.batch_size=50", "trainer=sgd_one_cycle", "schedule.interval=2", "replay.steps=10",
    "replay.buffer_size=100", "checkpoint.keep=true",
)  # fmt: skip

DOT = (  # the smallest run that is one
    "dataset.subset_size=40", "dataset.image_size=8", "dataset.augment=none", "model=logistic",
    "trainer.epochs=1", "trainer.batch_size=20", "save_model=false",
)  # fmt: skip
PREEMPTED = 75
Row = tuple[str, str, bool]  # what happened when, and then; whether all was well


def main(arguments: list[str]) -> int:
    usual = {"kills": "30", "only": ",".join(FAULTS), "home": "results/faults", "runs": "200"}
    own = usual | dict(entry.split("=", 1) for entry in arguments)
    if unknown := set(own) - set(usual) or set(own["only"].split(",")) - set(FAULTS):
        raise SystemExit(f"there is no {', '.join(unknown)}; see the head of this script")
    lines = ["| fault | times | resumed, and the same to the bit | what was seen |"]
    lines.append("|---|---|---|---|")
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        whole, again = Path(place) / "whole", Path(place) / "again"
        command = [sys.executable, "-m", "refine", "run", *RUN, f"output_dir={whole}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        start(again).wait()  # the first has to wait for the imports
        started = time.monotonic()
        start(Path(place) / "timed").wait()
        seconds = time.monotonic() - started
        if not same(again, whole):
            raise SystemExit("a forked process computes other numbers; nothing can be compared")
        bench = Bench(Path(place), whole, seconds, int(own["kills"]), int(own["runs"]))
        for name in own["only"].split(","):
            rows = []
            for moment, outcome, well in FAULTS[name](bench):
                print(f"{name}  {moment}: {outcome}{'' if well else '  DIFFERS'}", flush=True)
                rows.append((moment, outcome, well))
            good = sum(well for *_, well in rows)
            wrong += len(rows) - good
            seen = ", ".join(sorted({outcome for _, outcome, _ in rows}))
            lines.append(f"| {name} | {len(rows)} | {good} | {seen} |")
    home = Path(own["home"])
    home.mkdir(parents=True, exist_ok=True)
    write_text(home / "faults.md", "\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))
    return 1 if wrong else 0


class Bench:
    """The directory of the runs, the undisturbed run, its seconds, and how many runs to disturb."""

    def __init__(self, place: Path, whole: Path, seconds: float, kills: int, runs: int):
        self.place, self.whole, self.seconds, self.kills = place, whole, seconds, kills
        self.runs = runs
        self.chance = random.Random(1)
        self._number = 0

    def new(self) -> Path:
        self._number += 1
        return self.place / f"run-{self._number}"

    def resumed(self, directory: Path) -> tuple[str, bool]:
        """Resumes a run, or starts it again if it had not begun, and compares it with
        the undisturbed one."""
        outcome = "resumed"
        if not (directory / "config.yaml").exists():
            shutil.rmtree(directory, ignore_errors=True)
            start(directory).wait()
            outcome = "had not begun"
        else:
            done = start(directory, f"resume={directory}")
            output = "".join(done.communicate())
            if done.returncode:
                return f"exit {done.returncode}: {output[-200:]!r}", False
        return outcome, same(directory, self.whole)


def start(directory: Path, *overrides: str, before: Callable[[], None] | None = None) -> Forked:
    return Forked([*(overrides or (*RUN, f"output_dir={directory}"))], before)


def same(directory: Path, other: Path) -> bool:
    """Whether both runs have the same tables, except times, and the same weights."""
    weights = [(place / "model.safetensors").read_bytes() for place in (directory, other)]
    return weights[0] == weights[1] and figures(directory) == figures(other)


def figures(directory: Path) -> list[dict[str, str]]:
    rows = []
    for name in ("metrics.csv", "cycles.csv"):
        with (directory / name).open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows.append({key: value for key, value in row.items() if "seconds" not in key})
    return rows


def when(process: Forked, condition: Callable[[], bool]) -> None:
    """Waits until the condition holds or the process has ended."""
    while process.returncode is None and not condition():
        time.sleep(0.0005)


def kill(bench: Bench) -> Iterator[Row]:
    for _ in range(bench.kills):
        directory, moment = bench.new(), bench.chance.uniform(0, bench.seconds)
        process = start(directory)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        yield f"after {moment:.2f} s", *bench.resumed(directory)


def checkpoint(bench: Bench) -> Iterator[Row]:
    for _ in range(max(1, bench.kills // 5)):
        directory, number = bench.new(), bench.chance.randrange(6)
        process = start(directory)
        for _ in range(number):  # let so many be written
            when(process, lambda d=directory: any(d.glob(".checkpoint.pt.*.part")))
            when(process, lambda d=directory: not any(d.glob(".checkpoint.pt.*.part")))
        when(process, lambda d=directory: any(d.glob(".checkpoint.pt.*.part")))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        parts = sum(1 for _ in directory.glob(".checkpoint.pt.*.part"))
        outcome, well = bench.resumed(directory)
        yield f"checkpoint {number}, {parts} left in part", outcome, well


def cycle(bench: Bench) -> Iterator[Row]:
    for _ in range(max(1, bench.kills // 5)):
        directory, delay = bench.new(), bench.chance.uniform(0, 0.3)
        process = start(directory)
        table = directory / "metrics.csv"
        when(process, lambda t=table: t.exists() and t.read_text().count("\n") == 3)
        time.sleep(delay)  # the first cycle follows the second epoch
        process.send_signal(signal.SIGKILL)
        process.communicate()
        yield f"{delay:.2f} s into it", *bench.resumed(directory)


def term(bench: Bench) -> Iterator[Row]:
    for _ in range(max(1, bench.kills // 3)):
        directory, moment = bench.new(), bench.chance.uniform(0.5, 1) * bench.seconds
        process = start(directory)
        time.sleep(moment)
        process.send_signal(signal.SIGTERM)
        output = "".join(process.communicate())
        began = (directory / "config.yaml").exists()
        well = process.returncode in (0, PREEMPTED) if began else process.returncode < 0
        if process.returncode == 0:
            yield f"after {moment:.2f} s", "had finished", same(directory, bench.whole)
            continue
        outcome, equal = bench.resumed(directory)
        well = well and equal and "Traceback" not in output
        yield f"after {moment:.2f} s", f"exit {process.returncode}, {outcome}", well


def cut_short(bench: Bench) -> Iterator[Row]:
    directory = bench.new()
    process = start(directory)
    when(process, lambda: all((directory / name).exists() for name in CHECKPOINT_FILES))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for tenth in range(10):
        copy = bench.new()
        shutil.copytree(directory, copy)
        latest = copy / CHECKPOINT_FILES[0]
        with latest.open("rb+") as file:
            file.truncate(latest.stat().st_size * tenth // 10)
        resumed = start(copy, f"resume={copy}")
        output = "".join(resumed.communicate())
        named = str(latest) in output
        yield f"to {tenth}0 %", "named, the one before used", named and same(copy, bench.whole)


def full(bench: Bench) -> Iterator[Row]:
    """The disk gets full at another file each time: with more room, later. Without checkpoints,
    there is no room for the tables and the figure."""
    size = (bench.whole / CHECKPOINT_FILES[0]).stat().st_size
    rooms = [("1", int(size * share)) for share in (0.1, 0.9, 1.5, 2.2, 2.9, 3.1, 3.4)]
    rooms += [("0", 4096 * pages) for pages in (2, 3, 4, 5, 6, 8, 20)]
    for every, room in rooms:
        directory = bench.new()
        with small_disk(directory.with_suffix(".disk"), room) as (disk, limited):
            recipe = [entry for entry in RUN if every == "1" or entry != "checkpoint.keep=true"]
            overrides = (*recipe, f"output_dir={disk / 'run'}", f"checkpoint.every={every}")
            process = start(directory, *overrides, before=limited)
            output = "".join(process.communicate()).strip().splitlines()
            finished = process.returncode == 0
            told = any(text in output[-1] for text in ("No space left", "File too large"))
            clear = (finished or told) and "Traceback" not in "".join(output)
            if (disk / "run").exists():
                shutil.copytree(disk / "run", directory)
        at = "it was enough" if finished else f"full at {output[-1].rpartition('/')[2]}"
        tables = [directory / name for name in ("metrics.csv", "cycles.csv")]
        well = clear and all(t.read_bytes()[-1:] == b"\n" for t in tables if t.exists())
        if every == "1":
            latest = directory / CHECKPOINT_FILES[0]
            well = well and (not latest.exists() or whole_checkpoint(latest))
            well = bench.resumed(directory)[1] and well
        yield f"{room / 2**20:.2f} MiB, checkpoint.every={every}", at, well


def many(bench: Bench) -> Iterator[Row]:
    directory = bench.new()
    process = start(directory, "-m", *DOT, f"seed=range({bench.runs})", f"output_dir={directory}")
    reader = threading.Thread(target=process.communicate)
    reader.start()
    memory: dict[int, float] = {}  # MiB, by runs that are finished
    while process.returncode is None:
        finished = sum(1 for _ in directory.glob("*/summary.json"))
        memory.setdefault(finished, resident(process.pid))
        time.sleep(0.2)
    reader.join()
    counts = sorted(count for count in memory if count >= bench.runs // 4)
    growth = (memory[counts[-2]] - memory[counts[0]]) / max(1, counts[-2] - counts[0])
    started = time.monotonic()
    command = [sys.executable, "-m", "refine.report", str(directory)]
    report = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - started
    steady = growth < 1 or bench.runs < 100  # the first runs fill what the allocator then keeps
    well = process.returncode == report.returncode == 0 and steady and seconds < 5
    what = f"{growth:.2f} MiB more a run at {memory[counts[-2]]:.0f} MiB, report {seconds:.1f} s"
    yield f"{bench.runs} runs", what, well


def resident(process: int) -> float:
    """MiB of memory that a process holds; 0 once it has gone."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0.0
    return int(pages) * resource.getpagesize() / 2**20


def whole_checkpoint(path: Path) -> bool:
    try:
        return bool(read(path))
    except Damaged:
        return False


class small_disk:
    """A context with a directory that holds ``room`` bytes, and a function that a process must call
    first: None for a tmpfs; else it limits each file to a third of that."""

    def __init__(self, place: Path, room: int):
        self.place, self.room = place, room

    def __enter__(self) -> tuple[Path, Callable[[], None] | None]:
        self.place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self.room}", "tmpfs", str(self.place)]
        try:
            self.mounted = subprocess.run(mount, capture_output=True).returncode == 0
        except FileNotFoundError:
            self.mounted = False
        limit = self.room // 3
        limited = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
        return self.place, None if self.mounted else limited

    def __exit__(self, *error: object) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.place)], check=True)


FAULTS = {
    "kill": kill, "checkpoint": checkpoint, "cycle": cycle, "term": term, "cut_short": cut_short,
    "full": full, "many": many,
}  # fmt: skip

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # equal bits need equal threads; small work
    sys.exit(main(sys.argv[1:]))
