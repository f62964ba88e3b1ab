r"""Many spellings of one answer made few, before it is read.

>>> clean(r"\(\left( \dfrac12,\ 3 \right)\).")
'( \\frac12, 3 )'
>>> comma_readings("1,234")
['1,234', '1234']
"""

from __future__ import annotations

import re

_UNICODE = {
    **dict.fromkeys("−–—", "-"),
    **dict.fromkeys("×✕", r"\times "),
    **dict.fromkeys("·⋅∙", r"\cdot "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **dict.fromkeys("’′", "'"),
    **dict.fromkeys("⟨〈", r"\langle "),
    **dict.fromkeys("⟩〉", r"\rangle "),
    **{str_: f"^{{{digit}}}" for digit, str_ in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{str_: f"_{{{digit}}}" for digit, str_ in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    "÷": "/", "∕": "/", "⁄": "/", "∗": "*", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "≤": "<=", "≥": ">=", "≠": "!=", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ",
    "°": r"^\circ ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "％": "%", "，": ", ", "；": "; ", "：": ":", "（": "(",
    "）": ")", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "…": r"\ldots ", "∘": r"\circ ",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅕": r"\frac{1}{5}", "⅙": r"\frac{1}{6}", "⅛": r"\frac{1}{8}", "\u00a0": " ", "\u202f": " ", "\u2009": " ",
}  # fmt: skip
_TRANSLATION = str.maketrans(_UNICODE | dict.fromkeys(map(chr, (*range(9), *range(14, 32), 127)), ""))

_SPELLINGS = [
    (re.compile(r"<\|[^<>|]{1,40}\|>|</?[a-z]{3,12}>"), " "),  # a tokenizer's or a template's marks
    (re.compile(r"\\\\(?=(?:[dt]?frac|left|right|sqrt|text|boxed|cup|pi|infty|leq?|geq?|in|pm|cdot|times)\b)"), r"\\"),
    (re.compile(r"\\\\\[[^\]]{0,12}\]"), r"\\\\"),  # a line's height
    (re.compile(r"(?<!\\)\\[()\[\]]"), " "),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|left|right|[bB]ig+[lr]?)(?![A-Za-z])\s*\.?"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))"), ""),  # 14{,}916
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), "."),  # 2{,}5
    (re.compile(r"(?<=\d)\\[ ,](?=\d{3}(?!\d))"), " "),
    (re.compile(r"(?<!\\)\\(?:[!,:;> ]|q?quad)|~"), " "),
    (re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d,.]*\d)"), lambda found: found[0].replace(" ", "")),
    (re.compile(r"(?<=:\d\d) ?([ap])\.? ?m\b", re.IGNORECASE), r"\\text{\1m}"),
    (re.compile(r"\\displaystyle|\\(?:nonumber|notag)(?![A-Za-z])"), ""),
]
_SPECIAL = re.compile(r"[\\< {~]")
_TRAILING = re.compile(r"(?:\s|\\(?![A-Za-z%}])|(?<!\\ldots)[.,;:])+$")
_DOLLARS = re.compile(r"(?<!\\)\$")
_THOUSANDS = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")


def clean(text: str) -> str:
    """The same answer without delimiters, sizes, spaces and other marks that mean nothing."""
    text = text.translate(_TRANSLATION) if not text.isascii() or not text.isprintable() else text
    if "$" in text:
        text = _DOLLARS.sub(" " if len(_DOLLARS.findall(text)) % 2 == 0 else r"\\$", text)
    if _SPECIAL.search(text):
        for pattern, replacement in _SPELLINGS:
            text = pattern.sub(replacement, text)
    text = _TRAILING.sub("", " ".join(text.split()))
    return text[2:-2] if len(text) > 4 and text.startswith("**") and text.endswith("**") else text


def comma_readings(text: str) -> list[str]:
    """What the commas of a cleaned text may mean, likeliest last: between things, among thousands, or decimal."""
    if not _DECIMAL_COMMA.search(text):
        return [text]
    readings = [text]
    thousands = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    if thousands != text:
        readings.append(thousands)
    elif len(_DECIMAL_COMMA.findall(text)) == text.count(",") == 1 and not set(text) & set("()[]{}.;"):
        readings.append(_DECIMAL_COMMA.sub(".", text))
    return readings
