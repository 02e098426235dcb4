"""Which allocation of a budget to tensors does a learned policy find?

A recurrent policy visits the tensors one after another and draws for each a share of what it could
take. From the reward of the whole allocation it learns by REINFORCE (arXiv:2511.11675).
"""

import json
import time
from collections.abc import Callable, Mapping
from math import inf, sqrt

import torch
from torch import Tensor, nn

from refine.records.rows import EpisodeRow
from refine.regrowth.shares import shared

SHARES, HIDDEN = 11, 64  # a tensor takes 0, 0.1, ... or 1 of what it could
LEARNING_RATE = 5e-3
BASELINE_DECAY = 0.9
REWARD_UNIT, LARGEST_ADVANTAGE = 0.005, 100.0  # half a point of accuracy is an advantage of 1
ENTROPY_FROM, ENTROPY_TO, ENTROPY_UNTIL = 0.40, 0.04, 0.4  # two weights, a share of the episodes


def allocate(
    capacities: Mapping[str, int],
    budget: int,
    reward: Callable[[dict[str, int]], float],
    *,
    episodes: int = 500,
    seconds: float = inf,
    seed: int = 0,
    on_episode: Callable[[EpisodeRow], None] = lambda row: None,
) -> dict[str, int]:
    """The counts of the episode with the highest reward; they sum to ``budget``, or to the sum of
    the capacities if that is less.

    They were measured, while those that the final policy prefers may never have been. reward: of
    counts, as a fraction, the higher the better; to be measured on validation data. seconds: no
    episode begins later than this; there is always at least one. ``on_episode`` is called with each
    episode's row. The process's generators stay as they are.
    """
    if not capacities:
        return {}
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    policy = Policy(generator)
    optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    best, best_counts = -inf, dict[str, int]()
    baseline: float | None = None
    for episode in range(1, max(episodes, 1) + 1):
        if episode > 1 and time.perf_counter() - start > seconds:
            break
        with torch.enable_grad():
            counts, log_probability, entropy = policy(capacities, budget, generator)
        value = float(reward(dict(counts)))
        if value > best or not best_counts:
            best, best_counts = value, counts
        baseline = value if baseline is None else baseline
        advantage = (value - baseline) / REWARD_UNIT
        advantage = max(-LARGEST_ADVANTAGE, min(LARGEST_ADVANTAGE, advantage))
        optimizer.zero_grad()
        (-advantage * log_probability - _entropy_weight(episode, episodes) * entropy).backward()
        optimizer.step()
        baseline = BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * value
        on_episode(
            EpisodeRow(
                episode=episode,
                reward=value,
                best_reward=best,
                baseline=baseline,
                entropy=float(entropy.detach()) / len(capacities),
                counts=json.dumps(counts),
                seconds=time.perf_counter() - start,
            )
        )
    return best_counts


class Policy(nn.Module):
    """Draws an allocation, tensor by tensor."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        # Made on "meta", where the constructors draw nothing from the process's generator.
        self.cell = nn.LSTMCell(SHARES + 3, HIDDEN, device="meta").to_empty(device="cpu")
        self.head = nn.Linear(HIDDEN, SHARES, device="meta").to_empty(device="cpu")
        for parameter in self.parameters():  # torch's own initialisation of both
            nn.init.uniform_(parameter, -1 / sqrt(HIDDEN), 1 / sqrt(HIDDEN), generator=generator)

    def forward(
        self, capacities: Mapping[str, int], budget: int, generator: torch.Generator
    ) -> tuple[dict[str, int], Tensor, Tensor]:
        """Counts, the log-probability of the draws, and the sum of their entropies in nats.

        What the draws leave of the budget is given to the tensors in proportion to what they can
        still take.
        """
        total = sum(capacities.values())
        budget = remaining = min(budget, total)
        logits, state = torch.zeros(1, SHARES), None
        log_probability, entropy, counts = torch.zeros(()), torch.zeros(()), {}
        for position, (name, capacity) in enumerate(capacities.items()):
            place = (
                position / len(capacities),
                capacity / max(total, 1),
                remaining / max(budget, 1),
            )
            state = self.cell(torch.cat([logits, torch.tensor([place])], 1), state)
            logits = self.head(state[0])
            log_probabilities = logits.log_softmax(1)[0]
            probabilities = log_probabilities.exp()
            drawn = int(torch.multinomial(probabilities.detach(), 1, generator=generator))
            counts[name] = round(drawn / (SHARES - 1) * min(capacity, remaining))
            remaining -= counts[name]
            log_probability = log_probability + log_probabilities[drawn]
            entropy = entropy - (probabilities * log_probabilities).sum()
        left = {name: capacity - counts[name] for name, capacity in capacities.items()}
        for name, more in shared(left, left, remaining).items():
            counts[name] += more
        return counts, log_probability, entropy


def _entropy_weight(episode: int, episodes: int) -> float:
    progress = min(1.0, (episode - 1) / max(ENTROPY_UNTIL * episodes, 1))
    return ENTROPY_FROM + (ENTROPY_TO - ENTROPY_FROM) * progress
