"""What is recorded of an epoch, of a cycle and of a controller's trial, and in which file?

The fields of these rows are the columns of ``metrics.csv``, ``cycles.csv`` and ``controller.csv``.
Accuracies and sparsities are fractions, losses are nats, times are seconds.
"""

from dataclasses import dataclass

EPOCHS_FILE, CYCLES_FILE, EPISODES_FILE = "metrics.csv", "cycles.csv", "controller.csv"
CONFIG_FILE, SUMMARY_FILE = "config.yaml", "summary.json"
LOG_FILE, FIGURE_FILE, LOCK_FILE = "run.log", "refinement.png", ".lock"
CACHE_DIRECTORY, MODEL_FILE = "cache", "model.safetensors"
NETWORK_FILE = "network.json"  # how the network is built, and which inputs it takes
CHECKPOINT_FILES = ("checkpoint.pt", "checkpoint.before.pt")  # the latest, the one before it


@dataclass(frozen=True)
class EpochRow:
    """One epoch, measured before the cycle that may follow it."""

    epoch: int
    train_loss: float  # running means over the epoch's batches, as augmented
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    sparsity: float  # of all parameters, as in the paper
    prunable_sparsity: float  # of the prunable weights
    active_parameters: int
    total_parameters: int
    learning_rate: float  # of the epoch's last step
    cycles: int  # so far
    epoch_seconds: float  # training and evaluation
    validation_loss: float | None = None  # these two columns exist only with a validation split
    validation_accuracy: float | None = None
    task: int | None = None  # the next four exist only in a stream of tasks; from 1
    average_accuracy: float | None = None  # over the tasks so far, on test images
    forgetting: float | None = None  # mean loss of accuracy of the earlier tasks
    task_accuracies: str | None = None  # JSON: one for each task so far


@dataclass(frozen=True)
class CycleRow:
    """One cycle, after the epoch of that number."""

    cycle: int
    epoch: int
    ratio: float  # share of the survivors to be cut; negative: to be grown
    cut_weights: int
    cut_by_tensor: str  # JSON: parameter name to number of weights cut now
    sparsity: float
    prunable_sparsity: float
    active_parameters: int
    total_parameters: int
    test_accuracy_before: float | None  # not measured where cycles are due by step
    test_accuracy_after_cut: float | None
    test_accuracy_after_replay: float | None
    replay_steps: int
    replay_loss: float | None
    importance_seconds: float
    downscale_seconds: float
    cut_seconds: float
    replay_seconds: float
    step: int = 0  # training steps of the run so far
    grown_weights: int = 0
    grown_by_tensor: str = "{}"
    regrowth_seconds: float = 0.0
    memory_examples: int = 0  # what the replay's memory holds
    memory_bytes: int = 0
    cache_bytes: int = 0  # of what all cycles cut, as it is stored
    channels: int | None = None  # these two exist only with pruner=structured; left in all layers
    macs: int | None = None  # multiply-accumulates for one image that are left


@dataclass(frozen=True)
class EpisodeRow:
    """One trial of the controller that learns a regrowth's allocation."""

    episode: int
    reward: float  # a fraction, such as the validation accuracy
    best_reward: float  # so far
    baseline: float  # running mean of the rewards, with this one
    entropy: float  # of the policy, nats a tensor
    counts: str  # JSON: parameter name to number of weights regrown in this trial
    seconds: float  # since the first episode began
