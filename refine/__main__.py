"""``python -m refine`` is ``refine-run``."""

from refine.cli.run import main

if __name__ == "__main__":
    main()
