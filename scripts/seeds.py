"""Runs several set-ups for several seeds, in parallel. Runs that have finished with the same
configuration are not repeated.

Options of every script that uses it, besides its own and any override of refine-run:

    seeds=5            from seed 42 on
    home=DIR           where the results go
    workers=auto       runs at a time; auto: one a core, each on one thread, or one on a GPU
"""

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from pathlib import Path

import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from refine.cli.compose import EXPLAINED, explain, tried
from refine.cli.idle import Idle
from refine.experiment import run
from refine.report.runs import Run, Unusable, read_run
from refine.report.terminal import LogOnly, Terminal

FIRST = 42


def asked(arguments: list[str], **own: str) -> tuple[dict[str, str], list[str]]:
    """The script's own options, with its defaults where they are not given, and the overrides."""
    own = {"seeds": "5", "workers": "auto"} | own
    given = dict(entry.split("=", 1) for entry in arguments if entry.split("=")[0] in own)
    return own | given, [entry for entry in arguments if entry.split("=")[0] not in own]


def run_seeds(
    home: Path, overrides: dict[str, list[str]], options: dict[str, str]
) -> tuple[dict[str, list[Run]], float]:
    """The finished runs of every named set-up, one for each seed, and the seconds that this took.

    They lie in ``home/NAME/seed-SEED``. SystemExit, with one line, for a setting that cannot be
    followed.
    """
    started = time.perf_counter()
    seeds = range(FIRST, FIRST + _whole("seeds", options["seeds"]))
    places = {name: [home / name / f"seed-{seed}" for seed in seeds] for name in overrides}
    jobs, idle = [], Idle()
    for name, own in overrides.items():
        for seed, place in zip(seeds, places[name], strict=True):
            job = [*own, f"seed={seed}", f"output_dir={place}"]
            try:
                config = composed(job, idle)
            except EXPLAINED as error:
                raise SystemExit(explain(error)) from None
            if not _finished(place, OmegaConf.to_container(config, resolve=True)):
                jobs.append(job)
    for error in idle.nowhere().values():
        print(f"note: {error}")
    if jobs:
        _run_all(jobs, options["workers"], on_cpu=config.device in ("auto", "cpu"))
    runs = {name: [read_run(place) for place in own] for name, own in places.items()}
    return runs, time.perf_counter() - started


def composed(job: list[str], seen: Idle | None = None) -> DictConfig:
    """The configuration of a run; what it has no use for, which ``seen`` counts, may be there for
    the other set-ups."""
    config, in_vain = tried(job, reset=False)
    for name, error in in_vain.items():
        if name.startswith("schedule."):
            raise error
    if seen is not None:
        seen.add(in_vain)
    return config


def _run_all(jobs: list[list[str]], asked_for: str, on_cpu: bool) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_cpu = on_cpu and not torch.cuda.is_available()
    workers = _whole("workers", str(cores if on_cpu else 1) if asked_for == "auto" else asked_for)
    if workers == 1:
        for job in jobs:
            if problem := _run(job, Terminal()):
                raise SystemExit(problem)
        return
    done, context = 0, _context()
    full = len(jobs) // workers * workers  # what is left over shares the threads among fewer
    for part in (jobs[:full], jobs[full:]):
        if not part:
            continue
        size = min(workers, len(part))
        threads = max(1, cores // size)
        with ProcessPoolExecutor(size, context, _begin, (threads,)) as pool:
            running = {pool.submit(_run, job): Path(job[-1].partition("=")[2]) for job in part}
            for future in as_completed(running):
                if problem := future.result():
                    pool.shutdown(cancel_futures=True)
                    raise SystemExit(problem)
                done += 1
                place = running[future]
                end = read_run(place).end
                print(
                    f"{done} of {len(jobs)}  {place.parent.name} {place.name}: test accuracy "
                    f"{end.test_accuracy:.2%} at {end.sparsity:.1%} sparsity",
                    flush=True,
                )


def _context() -> BaseContext:
    """Workers start from one process that has imported PyTorch, where the system can do that."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["seeds", "refine.report.figure", "torch._dynamo"])
    return context


def _begin(threads: int) -> None:
    """A worker begins. It ends with its parent: else it would keep running beside the next one."""
    torch.set_num_threads(threads)
    parent = parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(job: list[str], display=None) -> str | None:
    """Does one run; returns what is wrong with its settings, if anything."""
    try:
        run(composed(job), display or LogOnly())
    except EXPLAINED as error:
        return explain(error)
    except KeyboardInterrupt:
        return "interrupted"


def _whole(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise SystemExit(f"{name}: must be a whole number from 1 on, not {text!r}")
    return int(text)


def _finished(directory: Path, config: dict) -> bool:
    """Whether ``directory`` holds a finished run of ``config``; SystemExit if it is another's."""
    if not directory.exists():
        return False
    try:
        read_run(directory)
    except Unusable as reason:
        raise SystemExit(f"{directory} is in the way ({reason}); remove it") from None
    config = {key: value for key, value in config.items() if key not in ("output_dir", "tracker")}
    there = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    if {key: there.get(key) for key in config} != config:
        raise SystemExit(f"{directory} was run with other settings; remove it or set home=DIR")
    return True
