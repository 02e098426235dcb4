"""``python -m refine.bench`` is ``refine-bench``."""

import sys

from refine.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
