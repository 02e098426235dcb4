"""How is a whole number divided in proportion?"""

from collections.abc import Mapping
from fractions import Fraction
from math import floor


def shared(
    weights: Mapping[str, float], capacities: Mapping[str, int], budget: int
) -> dict[str, int]:
    """Counts in proportion to ``weights`` (at least 0), none above its capacity. They sum to
    ``budget``, or to the sum of the capacities if that is less.

    Rounded by largest remainders, equal ones in the order of ``capacities``. What one cannot take
    is given to the others in proportion. What only those of weight 0 can take is given to them in
    proportion to the room that they have left.
    """
    counts = dict.fromkeys(capacities, 0)
    left = min(budget, sum(capacities.values()))
    exact = {name: Fraction(weights.get(name, 0)) for name in capacities}
    while left > 0:
        room = {
            n: capacity - counts[n] for n, capacity in capacities.items() if capacity > counts[n]
        }
        able = {name: exact[name] for name in room if exact[name] > 0} or room
        whole = sum(able.values())
        quotas = {name: left * Fraction(weight) / whole for name, weight in able.items()}
        full = [name for name, quota in quotas.items() if quota >= room[name]]
        if full:
            for name in full:
                counts[name] += room[name]
                left -= room[name]
            continue
        for name, quota in quotas.items():
            counts[name] += floor(quota)
        rest = left - sum(floor(quota) for quota in quotas.values())
        by_remainder = sorted(quotas, key=lambda name: floor(quotas[name]) - quotas[name])
        for name in by_remainder[:rest]:
            counts[name] += 1
        left = 0
    return counts
