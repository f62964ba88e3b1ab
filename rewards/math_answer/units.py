"""Names of units, with one spelling for each.

>>> canonical(["centimeters"]), canonical(["cm", "^2"]), canonical(["square", "centimetres"])
('cm', 'cm^2', 'cm^2')
"""

from __future__ import annotations

import re

LETTERS = frozenset("m g s h L l N J W V A K C F")
"""Single letters that are units after a number and a space."""

WORDS = re.compile(r"[^\W\d_]+(?:[ .'/-]+[^\W\d_]+){0,5}\.?")
"""What can be read as the words of a unit."""

SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words after a number that multiply it."""

_OPERATIONS = frozenset(
    "squared cubed factorial halves thirds fourths fifths sixths sevenths eighths ninths tenth tenths hundredth"
    " hundredths thousandth thousandths millionth millionths".split()
)

_SPELLINGS = {
    "%": "% percent percentage pct",
    "$": "$ dollar usd buck",
    "¢": "cent",
    "€": "€ euro eur",
    "£": "£ pound",
    "°": "° degree deg",
    "cm": "cm centimeter centimetre",
    "mm": "mm millimeter millimetre",
    "dm": "dm decimeter decimetre",
    "km": "km kilometer kilometre",
    "m": "m meter metre",
    "in": "in inch inche",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "g": "g gram gramme",
    "kg": "kg kilogram kilo",
    "mg": "mg milligram",
    "l": "l liter litre",
    "ml": "ml milliliter millilitre",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "year": "year yr",
    "mi / h": "mph",
    "unit": "unit",
}
_CANONICAL = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cubed": "^3"}


def is_operation(words: list[str]) -> bool:
    """Whether words after a number are no unit of it but make another number of it: 5 squared, 5 tenths."""
    return words[0].casefold() in _OPERATIONS


def canonical(words: list[str]) -> str:
    """One spelling of a unit: short, singular, its power behind it."""
    parts = " ".join(words).replace("/", " / ").replace(".", " ").replace("^", " ^").split()
    unit, power = [], ""
    for part in parts:
        lowered = part if len(part) == 1 else part.casefold()
        if lowered in _POWERS:
            power = _POWERS[lowered]
        elif part.startswith("^"):
            power = part
        elif lowered == "per":
            unit.append("/")
        elif lowered not in ("of", "the"):
            single = lowered.removesuffix("s") if len(lowered) > 2 else lowered
            unit.append(_CANONICAL.get(lowered, _CANONICAL.get(single, single)))
    return " ".join(unit) + power
