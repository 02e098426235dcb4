"""``python -m refine.report`` is ``refine-report``."""

import sys

from refine.report.cli import main

if __name__ == "__main__":
    sys.exit(main())
