"""Which answers of the pruner's questions exclude each other?"""


def check(
    importance_name: str, allocation_name: str, granularity_name: str, n: int = 2, m: int = 4
) -> None:
    """ValueError, of one line, if these cannot go together."""
    if granularity_name == "n_m" and not 0 < n < m:
        raise ValueError(f"n_m keeps n of every m weights: 0 < n < m, not n={n} and m={m}")
    if granularity_name == "n_m" and allocation_name != "layerwise":
        raise ValueError(
            f"n_m goes with the allocation layerwise, not {allocation_name}: "
            f"{n} of {m} is already every layer's share"
        )
    if importance_name == "similarity" and granularity_name != "filter":
        raise ValueError(
            f"the importance similarity goes with the granularity filter, not {granularity_name}: "
            "its scores are of filters"
        )
