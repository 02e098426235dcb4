"""``python -m refine`` is ``refine-run``."""

from refine.cli import main

if __name__ == "__main__":
    main()
