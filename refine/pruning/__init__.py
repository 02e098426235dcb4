"""What to cut: scores in ``importance``, numbers per tensor in ``allocation``."""
