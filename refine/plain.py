"""How is text that anybody may have written shown: as the text that it is?

Settings, reasons and names of directories can hold what a terminal, a table or a picture would
take for commands.
"""

import re

# Control characters, those that change the direction of writing, and halves of characters, as of
# names that are not UTF-8.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@")


def plain(text: object) -> str:
    """``text`` in one line, with escapes in place of what cannot be seen."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def counted(count: int, noun: str) -> str:
    """A number and its noun, such as "1 run" and "1,200 runs"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def of_spreadsheet(value: object) -> object:
    """A cell of a CSV file that no spreadsheet takes for a formula: text that looks like one, and
    is no number, begins with an apostrophe."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def of_picture(text: object) -> str:
    """Text for matplotlib, which takes what is between two dollar signs for a formula."""
    return plain(text).replace("$", r"\$")


def of_markdown(text: str) -> str:
    """A cell of a Markdown table."""
    for character, shown in (("\\", "\\\\"), ("|", "\\|"), ("`", "\\`"), ("<", "&lt;")):
        text = text.replace(character, shown)
    return text
