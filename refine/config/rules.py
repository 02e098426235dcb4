"""Which settings do not go together?

Each rule has the setting that the error names, when it is wrong, and what to say. If several
are broken, the first one is reported.
"""

from itertools import combinations

from omegaconf import DictConfig, OmegaConf

from refine.config.conditions import (
    Rule,
    after_the_end,
    badly_shared,
    exclusive,
    granularity_of,
    grown,
    needs,
    of_target,
    only_of_weights,
    structured,
    unset_target,
)
from refine.errors import SettingError
from refine.setting import TARGETS

UNRANKED = ("herding", "reservoir", "generative", "training")  # storages
WITHOUT_MEMORY = ("generative", "training")


def broken(config: DictConfig) -> SettingError | None:
    """The first rule that ``config`` breaks, as an error."""
    for rule in RULES:
        if it := rule.wrong(config):
            return SettingError(rule.setting, rule.says.format(c=config, it=it))
    return None


PRUNER = (
    Rule(
        "pruner",
        lambda c: c.pruner.granularity == "n_m" and not 0 < c.pruner.n < c.pruner.m,
        "n_m keeps n of every m weights: 0 < n < m, not n={c.pruner.n} and m={c.pruner.m}",
    ),
    Rule(
        "pruner",
        lambda c: c.pruner.granularity == "n_m" and c.pruner.allocation != "layerwise",
        "n_m goes with the allocation layerwise, not {c.pruner.allocation}: {c.pruner.n} of "
        "{c.pruner.m} is already every layer's share",
    ),
    Rule(
        "pruner",
        lambda c: granularity_of(c) not in (None, c.pruner.granularity) and granularity_of(c),
        "the importance {c.pruner.importance} goes with the granularity {it}, not "
        "{c.pruner.granularity}: its scores are of {it}s",
    ),
    Rule(
        "pruner.layers",
        badly_shared,
        "gives globs shares from 0 to below 1, such as {{fc*: 0.3}}, not {it}",
    ),
)
REGROWTH = (
    Rule(
        "regrowth",
        lambda c: grown(c) and c.pruner.granularity != "weight",
        "returns single weights, which pruner.granularity={c.pruner.granularity} does not have; "
        "set one of the two to none or weight",
    ),
    Rule(
        "regrowth.budget",
        lambda c: None not in (c.regrowth.budget, c.regrowth.target_sparsity),
        "and regrowth.target_sparsity exclude each other",
    ),
    Rule(
        "schedule",
        lambda c: not grown(c) and needs(c, "regrowth"),
        "{it} lets weights grow back; set regrowth=, such as random",
    ),
)
CONSOLIDATION = (
    Rule(
        "distillation.source",
        lambda c: c.distillation.teacher == "dense" and not c.distillation.source,
        "is not set; name a trained network's directory or .safetensors file",
    ),
    Rule(
        "distillation.during",
        lambda c: (
            c.distillation.teacher != "none"
            and c.distillation.during == "replay"
            and not c.replay.steps
        ),
        "replay has no steps with replay.steps=0; set distillation.during=cycle",
    ),
    Rule(
        "regrowth.source",
        lambda c: grown(c) and c.regrowth.source == "cache" and c.cache.kind == "none",
        "is cache, and there is none; set cache=memory or cache=disk",
    ),
    Rule(
        "replay.storage",
        lambda c: c.replay.storage in UNRANKED and c.replay.selection != "uniform",
        "{c.replay.storage} uses no rank of images; set replay.selection=uniform",
    ),
    Rule(
        "replay.sampling",
        lambda c: c.replay.storage in WITHOUT_MEMORY and c.replay.sampling != "shuffled",
        "there is no memory to draw from with replay.storage={c.replay.storage}",
    ),
    Rule(
        "recovery.rewind_weights",
        lambda c: c.recovery.rewind_weights and needs(c, "validation"),
        "would undo what schedule={it} has measured; set one of the two to something else",
    ),
)
REGULARIZER = (
    Rule(
        "regularizer.start",
        lambda c: c.regularizer.kind != "none" and c.regularizer.start >= c.trainer.epochs,
        "must be below {c.trainer.epochs}, the epochs of the run, not {c.regularizer.start}",
    ),
    Rule(
        "regularizer.stop",
        lambda c: (
            c.regularizer.kind != "none"
            and c.regularizer.stop is not None
            and c.regularizer.stop <= c.regularizer.start
        ),
        "must be above regularizer.start={c.regularizer.start}, not {c.regularizer.stop}",
    ),
)
CHANNELS = (
    only_of_weights("pruner.importance", "none", "pruner.criterion ranks channels"),
    only_of_weights("pruner.granularity", "weight", "channels go as a whole"),
    only_of_weights("pruner.initial_sparsity", 0, "applies to single weights only"),
    only_of_weights("regrowth.score", "none", "channels that were taken out do not grow back"),
    only_of_weights("cache.kind", "none", "keeps single weights"),
    Rule(
        "pruner.allocation",
        lambda c: structured(c) and c.pruner.allocation not in ("global", "layerwise"),
        "must be global or layerwise with channels, not {c.pruner.allocation}",
    ),
    Rule(
        "distillation.match",
        lambda c: (
            structured(c)
            and c.distillation.teacher != "none"
            and c.distillation.match == "features"
        ),
        "compares single units, and pruner=structured takes units out; set logits",
    ),
    Rule(
        "pruner.layers",
        lambda c: structured(c) and any((c.pruner.layers or {}).values()),
        "may only give 0 with channels, which leaves a layer as it is, such as {{conv1: 0}}",
    ),
    *(exclusive(first, second) for first, second in combinations(TARGETS, 2)),
    *(rule for name in TARGETS for rule in of_target(name)),
)
RULES = (
    *PRUNER,
    *REGROWTH,
    *CONSOLIDATION,
    *REGULARIZER,
    *CHANNELS,
    Rule(
        "pruner.granularity",
        lambda c: c.pruner.granularity == "n_m" and (c.pruner.layers or c.pruner.min_layer_density),
        "n_m fixes every layer's share; pruner.layers and min_layer_density cannot",
    ),
    Rule(
        "regrowth.initial",
        lambda c: grown(c) and c.regrowth.initial != "zero" and needs(c, "validation"),
        "must be zero, or regrowth could undo what schedule={it} keeps",
    ),
    Rule(
        "dataset.validation_size",
        lambda c: not c.dataset.validation_size and needs(c, "validation"),
        "schedule={it} uses validation accuracy; set it above 0",
    ),
    Rule(
        "dataset.validation_size",
        lambda c: (
            not c.dataset.validation_size and grown(c) and c.regrowth.allocation == "controller"
        ),
        "regrowth.allocation=controller uses validation accuracy; set it above 0",
    ),
    Rule(
        "schedule.start",
        after_the_end("start"),
        "must be at most {c.trainer.epochs}, the epochs of the run, not {it}",
    ),
    Rule(
        "schedule.stop",
        after_the_end("stop"),
        "must be at most {c.trainer.epochs}, the epochs of the run, not {it}",
    ),
    *(unset_target(name) for name in ("model", "trainer.optimizer", "trainer.lr_scheduler")),
    Rule(
        "trainer.lr_scheduler.per",
        lambda c: (
            OmegaConf.select(c, "trainer.lr_scheduler.per", default="epoch")
            not in ("batch", "epoch")
        ),
        "must be batch or epoch, not {c.trainer.lr_scheduler.per}",
    ),
)
