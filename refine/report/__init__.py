"""Tables and figures, made from the files of run directories. Nothing here imports torch."""
