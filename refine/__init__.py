"""Scheduled runtime refinement: train a network while it is pruned, replayed and refined.

``from refine import RuntimeRefinement`` is the library; ``refine-run --help`` the command line.
"""

__version__ = "0.1.0"
__all__ = ["CycleReport", "Replay", "RuntimeRefinement"]


def __getattr__(name: str):
    # Imported when first asked for: --help and --cfg must answer without torch (1.3 s).
    if name in ("RuntimeRefinement", "CycleReport"):
        from refine import refinement

        return getattr(refinement, name)
    if name == "Replay":
        from refine.replay import Replay

        return Replay
    raise AttributeError(f"module 'refine' has no attribute {name!r}")
