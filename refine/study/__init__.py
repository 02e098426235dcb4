"""A search over any settings: a layer of trials over refine/experiment.py's runs."""
