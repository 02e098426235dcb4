"""Which settings have an effect only with some values of others, and what is said without it?"""

from refine.config.conditions import (
    CURVES_WITH,
    TRACKERS_WITH,
    Effect,
    cuts_nothing,
    grown,
    no_cycles,
    of_curve,
    of_ratio,
    of_tracker,
    scored_without_data,
    share_decided,
    structured,
)
from refine.renamed import current
from refine.setting import TARGETS, below

BY_REFERENCE = {"reference", "saliency", "greedy", "proportional"}  # scores, allocations, initials
WITHOUT_MEMORY = ("generative", "training")  # storages

PRUNER = (
    Effect(
        ("pruner.n", "pruner.m"),
        lambda c: c.pruner.granularity != "n_m",
        "has no effect with pruner.granularity={c.pruner.granularity}; set "
        "pruner.granularity=n_m, or leave it out",
    ),
    Effect(
        below("pruner", *TARGETS, "round_to", "min_channels", "steps"),
        lambda c: not structured(c),
        "has no effect: it applies to channels only; set pruner=structured, or leave it out",
    ),
    Effect(
        ("pruner.initial_allocation",),
        lambda c: not c.pruner.initial_sparsity,
        "has no effect with pruner.initial_sparsity=0; set that above 0, or leave it out",
    ),
    Effect(
        ("pruner.scoring_batches",),
        scored_without_data,
        "has no effect: no score of this run is made on images; choose one that is, such as "
        "pruner.importance=taylor, or leave it out",
    ),
    Effect(
        ("pruner.ratio", "pruner.scoring_batches", "regrowth", "distillation"),
        no_cycles,
        "has no effect with schedule={it}, which has no cycles; choose another, or leave it out",
    ),
    Effect(
        ("pruner.ratio",),
        of_ratio,
        "has no effect with {it}, which decides how much a cycle cuts; leave one of them out",
    ),
    Effect(
        ("pruner.allocation", "pruner.granularity", "pruner.min_layer_density"),
        lambda c: cuts_nothing(c) and not c.pruner.initial_sparsity,
        "has no effect with pruner.importance=none, which cuts nothing; choose another "
        "importance, or leave it out",
    ),
)
REGROWTH = (
    Effect(
        below(
            "regrowth", "allocation", "budget", "target_sparsity", "initial", "only_epochs",
            "source", "controller",
        ),
        lambda c: not grown(c),
        "has no effect with regrowth=none; choose a regrowth, such as random, or leave it out",
    ),
    Effect(
        ("regrowth.controller",),
        lambda c: c.regrowth.allocation != "controller",
        "has no effect with regrowth.allocation={c.regrowth.allocation}; set "
        "regrowth.allocation=controller, or leave it out",
    ),
    Effect(
        ("regrowth.source",),
        lambda c: BY_REFERENCE.isdisjoint(
            (c.regrowth.score, c.regrowth.allocation, c.regrowth.initial)
        ),
        "is used only by regrowth=reference and saliency, regrowth.allocation=greedy and "
        "proportional, and regrowth.initial=reference",
    ),
)  # fmt: skip
REPLAY = (
    Effect(
        ("replay",),
        lambda c: c.dataset.split == "none" and no_cycles(c),  # else the end of a task fills it
        "has no effect with schedule={it}, which has no cycles; choose another, or leave it out",
    ),
    Effect(
        below(
            "replay", "selection", "buffer_size", "batch_size", "storage", "sampling", "alpha",
            "beta", "vae",
        ),
        lambda c: not c.replay.steps,
        "has no effect with replay.steps=0, which is replay=none; choose a replay, or leave it out",
    ),
    Effect(
        ("replay.buffer_size", "replay.alpha", "replay.beta"),
        lambda c: c.replay.storage in WITHOUT_MEMORY,
        "has no effect with replay={c.replay.storage}, which keeps no images; choose a replay "
        "that does, or leave it out",
    ),
    Effect(
        ("replay.alpha", "replay.beta"),
        lambda c: c.replay.sampling != "proportional",
        "has no effect with replay.sampling={c.replay.sampling}; choose replay=prioritized, or "
        "leave it out",
    ),
    Effect(
        ("replay.vae",),
        lambda c: c.replay.storage != "generative",
        "has no effect with replay.storage={c.replay.storage}; choose replay=generative, or leave "
        "it out",
    ),
)  # fmt: skip
DISTILLATION = (
    Effect(
        below("distillation", "match", "during", "temperature", "weight", "decay", "source"),
        lambda c: c.distillation.teacher == "none",
        "has no effect without a teacher; choose distillation=self, ema or dense, or leave it out",
    ),
    Effect(
        ("distillation.decay",),
        lambda c: c.distillation.teacher != "ema",
        "has no effect with distillation={c.distillation.teacher}; choose distillation=ema, or "
        "leave it out",
    ),
    Effect(
        ("distillation.source",),
        lambda c: c.distillation.teacher != "dense",
        "has no effect with distillation={c.distillation.teacher}; choose distillation=dense, or "
        "leave it out",
    ),
    Effect(
        ("distillation.temperature",),
        lambda c: c.distillation.match == "features",
        "has no effect with distillation.match=features; set that to logits, or leave it out",
    ),
)  # fmt: skip
RECOVERY = (
    *(of_curve(setting, curves) for setting, curves in CURVES_WITH.items()),
    Effect(
        ("recovery.cycle_momentum",),
        lambda c: "." not in c.recovery.curve and c.recovery.curve not in ("clr", "one_cycle"),
        "goes with clr and one_cycle; choose recovery=clr or one_cycle, or leave it out",
    ),
    Effect(
        ("recovery.epochs", "recovery.original_epochs"),
        lambda c: c.recovery.curve == "none" and not c.recovery.rewind_weights,
        "has no effect with recovery=none; choose a recovery, such as slr, or leave it out",
    ),
    Effect(
        ("recovery.original_epochs",),
        lambda c: c.recovery.curve == "none",
        "has no effect with recovery.curve=none; choose a curve, such as slr, or leave it out",
    ),
    Effect(
        ("recovery.rewind_to",),
        lambda c: not c.recovery.rewind_weights,
        "needs recovery.rewind_weights=true",
    ),
)
OTHERS = (
    Effect(
        below("regularizer", "strength", "growth", "warmup", "start", "stop"),
        lambda c: c.regularizer.kind == "none",
        "has no effect with regularizer=none; choose a regularizer, such as l1, or leave it out",
    ),
    Effect(
        ("regularizer.growth",),
        lambda c: c.regularizer.kind != "growing_reg",
        "has no effect with regularizer={c.regularizer.kind}; choose regularizer=growing_reg, or "
        "leave it out",
    ),
    Effect(
        ("schedule.of", "schedule.cycles_at_once"),
        share_decided,
        "has no effect with {it}, which decides how much a cycle cuts; leave one of them out",
    ),
    *(of_tracker(setting, trackers) for setting, trackers in TRACKERS_WITH.items()),
    Effect(
        ("dataset.root",),
        lambda c: current(c.dataset._target_) == "refine.datasets.digits",
        "has no effect on the digits, which come with scikit-learn; choose other data, such as "
        "dataset=image_folder, or leave it out",
    ),
    Effect(
        ("dataset.tasks",),
        lambda c: c.dataset.split == "none",
        "has no effect with dataset.split=none; set that to classes or permuted, or leave it out",
    ),
    Effect(
        ("checkpoint.keep",),
        lambda c: not c.checkpoint.every,
        "has no effect with checkpoint.every=0, which makes none; leave one of them out",
    ),
    Effect(
        ("output_dir",),
        lambda c: c.resume,
        "has no effect with resume={c.resume}, where the run goes on; leave it out",
    ),
    Effect(
        ("start_from_head",),
        lambda c: c.start_from is None,
        "has no effect without start_from; name a network, or leave it out",
    ),
    Effect(
        ("sweep.dry_run",),
        lambda c: True,  # a sweep leaves these names out when it asks
        "has no effect on a single run; refine-run -m makes a sweep",
    ),
)  # fmt: skip
EFFECTS = (*PRUNER, *REGROWTH, *REPLAY, *DISTILLATION, *RECOVERY, *OTHERS)
