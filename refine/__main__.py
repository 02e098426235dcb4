"""``python -m refine`` is ``refine``."""

import sys

from refine.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
