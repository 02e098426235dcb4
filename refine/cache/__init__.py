"""What was cut, and how does it come back?

``Cache`` keeps what cycles cut; ``read_network`` reads the network that was kept before a cut.
"""

__all__ = ["Cache", "read_network"]


def __getattr__(name: str):
    # Imported when first asked for: the list of what a run kept needs no torch.
    if name == "Cache":
        from refine.cache.cache import Cache

        return Cache
    if name == "read_network":
        from refine.cache.network import read_network

        return read_network
    raise AttributeError(f"module 'refine.cache' has no attribute {name!r}")
