"""Which criterion takes out which channels at what cost, with and without sparse training?

    python scripts/run_structured.py [targets=2,4] [arms=NAME,…] OVERRIDE…

Every arm is ``experiment=sparse_training_small`` (pretraining, sparse training, cut, fine-tuning in
one run) at every target: how many times fewer multiply-accumulates are left. ``dense`` trains as
long along the same rates and cuts nothing. Strengths are 100 times the published ones, as the
sparse training has a hundredth of the published steps, each weighted by its learning rate. Any
override of refine-run passes through; ``home=DIR``, ``seeds=N`` and ``workers=N`` are as in
scripts/seeds.py. Writes ``runs.csv``, ``table.md`` and ``structured.png``.
"""

import sys
from pathlib import Path

from seeds import asked, run_seeds

BASE = ["experiment=sparse_training_small", "checkpoint.every=0", "save_model=true"]
DENSE = [*BASE, "control=dense", "regularizer=none", "regularizer.strength=null"]
NONE = ["regularizer=none", "regularizer.strength=null"]
ARMS = {
    "magnitude": ["pruner.criterion=magnitude", *NONE],
    "bn_scale": ["pruner.criterion=bn_scale", "regularizer=bn_scale", "regularizer.strength=0.001"],
    "growing_reg": [
        "pruner.criterion=growing_reg", "regularizer=growing_reg", "regularizer.strength=0.01",
        "regularizer.growth=0.025",
    ],
    "group_norm": ["pruner.criterion=group_norm"],
    "group_norm, no sparse training": ["pruner.criterion=group_norm", *NONE],
    "random": ["pruner.criterion=random", *NONE],
}  # fmt: skip


def main(arguments: list[str]) -> int:
    options, overrides = asked(
        arguments, home="results/structured", targets="2,4", arms=",".join(ARMS), seeds="3"
    )
    runs = Path(options["home"]) / "runs"
    jobs = {"dense": [*DENSE, *overrides]}
    for target in options["targets"].split(","):
        for arm, own in ARMS.items():
            job = [*BASE, *own, f"pruner.target_speedup={target}", *overrides]
            jobs[f"{arm}-{target}x".replace(", ", "_").replace(" ", "_")] = job
    run_seeds(runs, jobs, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
