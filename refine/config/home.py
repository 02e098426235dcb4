"""Where are the files of which a configuration is composed?"""

from pathlib import Path

import refine


def config_directory() -> Path:
    """``conf/``: inside the package in a wheel, beside it in a checkout."""
    home = Path(refine.__file__).parent
    inside = home / "conf"
    return inside if inside.is_dir() else home.parent / "conf"
