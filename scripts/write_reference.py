"""Writes docs/reference.md: every setting, from the schema and conf/.

python scripts/write_reference.py
"""

from pathlib import Path

from refine.cli.compose import composed
from refine.cli.help import settings_text

PLACE = Path(__file__).parent.parent / "docs" / "reference.md"
HEAD = """\
# Every setting

`scripts/write_reference.py` makes this page; `refine-run --help` says the same. A setting is given
as NAME=VALUE: `refine-run trainer.epochs=40`.

```text
"""


def page() -> str:
    """The page, as it has to be."""
    return f"{HEAD}{settings_text(composed([]))}```\n"


if __name__ == "__main__":
    PLACE.write_text(page(), encoding="utf-8")
    print(f"wrote {PLACE}")
