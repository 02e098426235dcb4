"""Which other programs receive the measurements of a run?

A tracker is a class with ``row(row, sparsities)`` and ``end(summary, figure_path)``. Its
constructor receives those of the following that its signature names: ``directory``, the run's;
``config``, the whole configuration as a dict; ``start_epoch``, the epochs that an earlier process
of this run has reported, with their cycles; and the settings of the group ``tracker``.
"""
