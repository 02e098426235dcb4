"""The package by its distribution's name: ``from runtime_refinement import RuntimeRefinement``."""

from refine import *  # noqa: F403
from refine import __all__, __version__  # noqa: F401
