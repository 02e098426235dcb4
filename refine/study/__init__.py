"""A search over any settings: each trial is a run of refine/experiment.py."""
