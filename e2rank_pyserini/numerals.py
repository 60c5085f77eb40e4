"""Numbers as options say them: as C reads them, where Python also takes 1_0 and the digits of other scripts."""

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least `least`."""

    def parsed(word: str) -> int:
        number = int(word) if re.fullmatch(r"[+-]?[0-9]{1,18}", word) else least - 1
        if number < least:
            raise ArgumentTypeError(f"expected a whole number of at least {least}, got {word}")
        return number

    return parsed


positive = whole(1)


def real(word: str) -> float:
    """The number that a word says; nan where it says none."""
    try:
        return float(word) if word.isascii() and "_" not in word else math.nan
    except ValueError:
        return math.nan
