"""Who else is told what was measured?

A tracker is a class with ``row(row, sparsities)`` and ``end(summary, figure_path)``. Its
constructor gets, of these, what its signature names: ``directory``, the run's; ``config``, all of
the configuration as a dict; ``start_epoch``, the epochs that an earlier process of this run has
told, with their cycles; and the settings of the group ``tracker``.
"""
