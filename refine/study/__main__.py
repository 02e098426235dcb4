"""``python -m refine.study`` is ``refine-study``."""

import sys

from refine.study.cli import main

if __name__ == "__main__":
    sys.exit(main())
