"""How is a network refined in a user's own training loop? A cycle's steps: refine/cycle.py."""

from refine.refinement.runtime import RuntimeRefinement

__all__ = ["RuntimeRefinement"]
