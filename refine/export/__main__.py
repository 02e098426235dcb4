"""``python -m refine.export`` is ``refine-export``."""

import sys

from refine.export.cli import main

if __name__ == "__main__":
    sys.exit(main())
