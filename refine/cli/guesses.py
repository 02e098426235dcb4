"""What did somebody mean who typed what is no setting, no option and no value?"""

import re
from collections.abc import Sequence

from refine.config import GROUPS, config_directory, settings
from refine.errors import SettingError, nearest
from refine.setting import within

# What other tools and papers call our settings. A guess with a blank is several overrides.
CALLED = {
    "epoch": "trainer.epochs", "epochs": "trainer.epochs", "n_epochs": "trainer.epochs",
    "num_epochs": "trainer.epochs",
    "max_epochs": "trainer.epochs", "lr": "trainer.optimizer.lr",
    "learning_rate": "trainer.optimizer.lr", "wd": "trainer.optimizer.weight_decay",
    "weight_decay": "trainer.optimizer.weight_decay", "momentum": "trainer.optimizer.momentum",
    "bs": "trainer.batch_size", "batch": "trainer.batch_size", "batch_size": "trainer.batch_size",
    "amp": "trainer.precision", "fp16": "trainer.precision", "dtype": "trainer.precision",
    "ratio": "pruner.ratio", "prune_ratio": "pruner.ratio", "pruning_ratio": "pruner.ratio",
    "prune": "pruner.ratio", "amount": "pruner.ratio", "cut": "pruner.ratio",
    "criterion": "pruner.importance", "score": "pruner.importance",
    "downscale_factor": "pruner.downscale", "scale": "pruner.downscale",
    "sparsity": "schedule=cubic schedule.target_sparsity",
    "target_sparsity": "schedule=cubic schedule.target_sparsity",
    "final_sparsity": "schedule=cubic schedule.target_sparsity",
    "interval": "schedule.interval", "prune_interval": "schedule.interval",
    "refine_interval": "schedule.interval", "frequency": "schedule.interval",
    "buffer": "replay.buffer_size", "replay_steps": "replay.steps", "temperature":
    "distillation.temperature", "speedup": "pruner=structured pruner.target_speedup",
    "target_speedup": "pruner=structured pruner.target_speedup",
    "arch": "model", "architecture": "model", "network": "model", "net": "model",
    "data": "dataset", "root": "dataset.root", "data_dir": "dataset.root",
    "data_root": "dataset.root", "dataset_root": "dataset.root", "data_path": "dataset.root",
    "subset": "dataset.subset_size", "image_size": "dataset.image_size",
    "optim": "trainer", "optimizer": "trainer", "scheduler": "trainer", "out": "output_dir",
    "output": "output_dir", "out_dir": "output_dir", "save_dir": "output_dir",
    "outdir": "output_dir", "gpu": "device", "cuda": "device", "checkpoint_dir": "output_dir",
}  # fmt: skip
# Below these are settings that no schema knows, and Hydra's own.
OPEN = (
    "trainer.optimizer", "trainer.lr_scheduler", "model", "dataset", "schedule", "tracker", "hydra",
)  # fmt: skip
MOST = 3  # guesses that are said
PARSERS_WORDS = re.compile(r"mismatched input|no viable|extraneous|token recogn|expecting|Lexer")
OPENING, CLOSING = "[{(", "]})"


def settings_meant(name: str) -> list[str]:
    """The settings that ``name`` could be, the likeliest first."""
    last = name.replace("-", "_").lower().rpartition(".")[2]
    known = [setting for setting, _ in settings()]
    if last in CALLED:
        return [CALLED[last]]
    if same := [setting for setting in known if setting.rpartition(".")[2] == last]:
        return same[:MOST]
    group = name.rpartition(".")[0]
    beside = {k.rpartition(".")[2]: k for k in (*known, *GROUPS) if k.rpartition(".")[0] == group}
    lasts = {setting.rpartition(".")[2]: setting for setting in reversed(known)}
    for names in (beside, CALLED, lasts):  # a slip stays in its group more often than not
        if found := nearest(list(names), last):
            return [names[found]]
    return []


def overrides_meant(name: str, value: str) -> str:
    """What to say of ``name=value``, where there is no such setting; empty without a guess."""
    found = settings_meant(name)
    return f"did you mean {' or '.join(f'{guess}={value}' for guess in found)}?" if found else ""


def check_names(typed: Sequence[tuple[str, str]]) -> None:
    """SettingError, with the override that was meant, for a (name, value) whose name is no
    setting."""
    known = {name for name, _ in settings()}
    nodes = {name[:i] for name in known for i, c in enumerate(name) if c == "."} | set(GROUPS)
    inner = (nodes | set(OPEN)) - set(GROUPS)
    for name, value in typed:
        if name in inner and value != "null" and re.fullmatch(r"[A-Za-z]\w*", value):
            meant = options_with(name, value) or f"those, such as {name}._target_="
            raise SettingError(name, f"holds settings of its own; give {meant}")
        if name in known | nodes or within(name, (*OPEN, *known)) or "/" in name or "@" in name:
            continue
        if meant := overrides_meant(name, value):
            raise SettingError(name, f"there is no such setting; {meant}")


def check_whole(overrides: Sequence[str]) -> None:
    """SettingError for what a shell has taken apart: blanks around commas or =, or in brackets that
    are not quoted; and for a word without =."""
    for here, after in zip(overrides, [*overrides[1:], ""], strict=False):
        name, equals, value = here.partition("=")
        follows = bool(after) and "=" not in after
        opened = sum(map(value.count, OPENING)) - sum(map(value.count, CLOSING))
        if follows and equals and opened > 0:
            problem = f"is in several parts; put it in quotes: '{here} {after}'"
            raise SettingError(name, problem if opened < 50 else "has brackets without an end")
        if follows and (here.endswith((",", "=")) or after.startswith(",")):
            raise SettingError(name, f"has blanks around , or =; write {here}{after} without them")
        if not equals and not here.startswith("~"):
            raise SettingError(here[:80], _without_equals(here, after))


def _without_equals(word: str, after: str) -> str:
    if word in GROUPS:
        options = options_of(word)
        chosen = after if after in options else "OPTION"
        return f"needs a value: write {word}={chosen}; {', '.join(options)}"
    groups = [group for group in GROUPS if word.lower() in options_of(group)]
    if groups:
        return f"is no override; write {' or '.join(f'{group}={word.lower()}' for group in groups)}"
    meant = overrides_meant(word, "VALUE")
    return f"is no override; write SETTING=VALUE{f', {meant}' if meant else ''}"


def options_of(group: str) -> list[str]:
    """The options of a group, such as those of ``pruner``."""
    return sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))


def options_with(name: str, value: str) -> str:
    """The options of the setting's group whose names have ``value`` in them, as overrides."""
    group, word = name.partition(".")[0], value.lower()
    options = options_of(group) if len(word) > 1 else []
    return " or ".join(f"{group}={option}" for option in options if word in option)


def without_dashes(arguments: Sequence[str], flags: Sequence[str]) -> str:
    """What to say of ``--epochs 20``: the overrides that are meant, in a line; empty if every
    option is one of ``flags``, or begins one."""
    said: list[str] = []
    unknown: list[str] = []
    foreign, rest = False, list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not re.match(r"--?[a-zA-Z]", word) or any(flag.startswith(name) for flag in flags):
            said.append(word)
            continue
        foreign = True
        if not equals and rest and not rest[0].startswith("-") and "=" not in rest[0]:
            value, equals = rest.pop(0), "="
        name = name.lstrip("-").replace("-", "_")
        known = {setting for setting, _ in settings()} | {*GROUPS}
        meant = [name] if name in known else settings_meant(name)
        if meant:
            said.append(f"{meant[0]}={value if equals else 'VALUE'}")
        else:
            unknown.append(word.partition("=")[0])
    if not foreign:
        return ""
    if unknown:
        return f"there is no option {', '.join(unknown)}; refine-run --help lists all settings"
    return f"settings have no dashes; write: refine-run {' '.join(said)}"
