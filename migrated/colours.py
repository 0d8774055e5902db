"""Colours on a terminal, and what a terminal must not be sent."""

import os
import re
from collections.abc import Sequence

DIM = "2"
BOLD = "1"
RED = "31"
GREEN = "32"
YELLOW = "33"
CYAN = "36"
BOLD_RED = "31;1"
"""Parameters of the escape sequence that sets them."""

_OF_DIFF = {"@": CYAN, "-": RED, "+": GREEN, "…": DIM}
_LABELS = 2
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def are_wanted(*, on_terminal: bool) -> bool:
    """Whether to colour what is written: on a terminal, unless NO_COLOR says otherwise (https://no-color.org)."""
    return on_terminal and not os.environ.get("NO_COLOR")


def painted(text: str, colour: str) -> str:
    """The text in a colour; as it is for none."""
    return f"\033[{colour}m{text}\033[0m" if colour and text else text


def visible(text: str) -> str:
    """The text with its control characters written out: in a file's name or text they could do anything."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def painted_diff(lines: Sequence[str]) -> list[str]:
    """The lines of a unified diff, which begins with its two labels, in the colours that diff uses."""
    labels = [painted(line, BOLD) for line in lines[:_LABELS]]
    return labels + [painted(line, _OF_DIFF.get(line[:1], "")) for line in lines[_LABELS:]]
