r"""Reads an answer in LaTeX or plain text. Nothing is evaluated; what is not understood is refused.

Recursive descent, one method a level of precedence, bounded in length, depth and digits before anything is built.

>>> str(read(r"x = \frac{3}{4}"))
'x = 3/4'
>>> str(read(r"\{1 \pm \sqrt{5}, -2\}"))
'{1 ± sqrt(5), -2}'
>>> read("os.system(1)")
Traceback (most recent call last):
grpo_agents.rewards.math_answer.expression.Unreadable: holds '.' where the answer should end
"""

from __future__ import annotations

import re
from contextlib import suppress

from grpo_agents.rewards.math_answer import units
from grpo_agents.rewards.math_answer.atoms import MAX_ITEMS, Atoms, primed
from grpo_agents.rewards.math_answer.expression import Expr, Unreadable, is_higher, measured, negative, number, times
from grpo_agents.rewards.math_answer.tokens import (
    AND,
    CLOSING,
    END,
    NAMED,
    RELATIONS,
    TIMES,
    folded,
    is_unit,
)

MAX_LENGTH = 2_000
"""Characters of an answer."""
MAX_HEIGHT = 100
"""Operations inside one another, such as 5!!! or 1/2/3/4; all that goes through a tree later on is recursive."""

_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mbox|textit)\s*\{([^{}]*)\}")
_TEXT_WITH_NUMBERS = re.compile(r"\\(?:text|textbf|mathrm|mbox|textit)\s*\{([^{}\d,]*[\d,][^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '.,-]+[^\W\d_]+)*")
_NO_FACTOR = frozenset(
    [*RELATIONS, *TIMES, *CLOSING.values(), *"pm mp cup cap setminus backslash div bmod pmod mod to rightarrow".split(),
     *"mid land lor wedge circ prime end rvert over choose %".split(), "&", "\\", "}", "|", "$"]
)  # fmt: skip


def read(text: str) -> Expr:
    """The tree of a cleaned answer.

    Raises:
        Unreadable: It is no answer, or over the limits.
    """
    if len(text) > MAX_LENGTH:
        raise Unreadable(f"has {len(text):,} characters; {MAX_LENGTH:,} are allowed")
    if not text:
        raise Unreadable("is empty")
    if (opened := _TEXT_WITH_NUMBERS.sub(r" \1 ", text)) != text:
        with suppress(Unreadable):
            return _Reader(opened).whole()
    try:
        return _Reader(text).whole()
    except Unreadable:
        if _WORDS.fullmatch(words := words_of(text)) and len(words) > 1:
            return Expr("text", (words,))
        raise


def words_of(text: str) -> str:
    """A text in lower case, without LaTeX's marks of text."""
    return folded(_MARKUP.sub(r"\1", text))


class _Reader(Atoms):
    """One method a level of precedence, from the whole answer down."""

    def whole(self) -> Expr:
        found = self.sequence()
        if self.token is not END:
            raise self.unexpected("the answer should end")
        if is_higher(found, MAX_HEIGHT):
            raise Unreadable(f"has more than {MAX_HEIGHT} operations inside one another")
        if self.has_words and _has_words_inside(found):
            raise Unreadable("mixes words with numbers")
        return found

    def sequence(self) -> Expr:
        """Things between semicolons, "and" or "or", or commas; the thing itself where it is one."""
        groups = [self.conjunction()]
        while self.accept(";"):
            groups.append(self.conjunction())
        return _list(groups)

    def conjunction(self) -> Expr:
        groups, words = [self.commas()], set()
        while word := self.and_or():
            words.add(word)
            groups.append(self.commas())
        if len(words) == 1 and all(group.head == "relation" and "=" not in group.args[0] for group in groups):
            return Expr("union" if words == {"or"} else "intersection", tuple(groups))
        return _list(groups)

    def commas(self) -> Expr:
        items = [self.relation()]
        while self.accept(","):
            self.and_or()  # "19, 46, and 82"
            items.append(self.relation())
            if len(items) > MAX_ITEMS:
                raise Unreadable(f"lists more than {MAX_ITEMS} things")
        return items[0] if len(items) == 1 else Expr("list", tuple(items))

    def relation(self) -> Expr:
        terms, signs = [self.sets()], []
        while self.token.kind in ("sign", "command") and self.token.text in RELATIONS:
            signs.append(RELATIONS[self.token.text])
            self.at += 1
            terms.append(self.sets())
        return Expr("relation", (tuple(signs), tuple(terms))) if signs else terms[0]

    def sets(self) -> Expr:
        found = self.ratio()
        while sign := self.accept("cup", "cap", "setminus", "backslash") or self.typed_union():
            head = {"cup": "union", "cap": "intersection"}.get(sign, "difference")
            right = self.ratio()
            joined = found.args if found.head == head != "difference" else (found,)
            found = Expr(head, (*joined, right))
        return found

    def typed_union(self) -> str:
        """Steps over a U that stands for a union, as people type it."""
        is_union = self.token.kind == "word" and self.token.text == "U" and self.token.spaced
        self.at += is_union
        return "cup" if is_union else ""

    def ratio(self) -> Expr:
        terms = [self.sum()]
        while not self.in_set and self.accept(":"):
            terms.append(self.sum())
        if len(terms) == 1:
            return terms[0]
        if terms[-1].head == "unit":  # 7:30 pm
            terms[-1], unit = terms[-1].args
            return Expr("unit", (Expr("ratio", tuple(terms)), unit))
        return Expr("ratio", tuple(terms))

    def sum(self) -> Expr:
        if sign := self.accept("pm", "mp"):
            found = Expr("±" if sign == "pm" else "∓", (None, self.product()))
        else:
            found = self.product()
        terms = [found]
        while sign := self.accept("+", "-", "pm", "mp"):
            right = self.product()
            if sign == "-" and right.head == "set":
                terms = [Expr("difference", (terms[0], right))]
            elif sign in ("pm", "mp"):
                left = terms[0] if len(terms) == 1 else Expr("+", tuple(terms))
                terms = [Expr("±" if sign == "pm" else "∓", (left, right))]
            else:
                terms.append(negative(right) if sign == "-" else right)
        return terms[0] if len(terms) == 1 else Expr("+", tuple(terms))

    def product(self) -> Expr:
        return negative(self.factors()) if self.minus() else self.factors()

    def factors(self) -> Expr:
        found = self.power()
        while True:
            if self.accept(*TIMES):
                found = times(found, self.signed())
            elif self.accept("/", "div"):
                if is_unit(self.token) and self.token.text not in NAMED and len(self.token.text) > 1:
                    self.at -= 1
                    return self.unit(found)
                found = Expr("/", (found, self.signed()))
            elif self.is_mod():
                self.at += 1
                found = Expr("mod", (found, self.signed()))
            elif self.is_modulus():
                self.at += 1
                found = measured(found, f"mod {self.modulus()}")
            elif self.is_cross(found):
                self.at += 1
                found = times(found, self.power())
            elif self.accept("%"):
                found = measured(found, "%")
            elif self.starts_unit(found):
                return self.unit(found)
            elif self.starts_factor():
                found = self.beside(found)
            else:
                return found

    def beside(self, left: Expr) -> Expr:
        r"""A product without a sign, or a mixed number: 2\frac{1}{3}, 2 1/3. No answer has numbers side by side."""
        is_bare = left.head == "number" and self.tokens[self.at - 1].kind == "number"
        first = self.token
        right = self.power()
        if left.head == "number" and first.kind == "number":
            if not is_bare or not self.accept("/"):
                raise Unreadable("has two numbers side by side")
            right = Expr("/", (right, self.atom()))
            if not _is_mixed(left, right):
                raise Unreadable("has two numbers side by side")
        fraction, unit = right.args if right.head == "unit" else (right, "")
        if not (is_bare and (first.kind == "number" or first.text == "frac") and _is_mixed(left, fraction)):
            return times(left, right)
        above, below = fraction.args
        found = number(left.args[0] + above.args[0] / below.args[0])
        return measured(found, unit) if unit else found

    def signed(self) -> Expr:
        return negative(self.power()) if self.minus() else self.power()

    def is_mod(self) -> bool:
        return self.token.text in ("bmod", "mod") and self.token.kind in ("command", "word")

    def is_modulus(self) -> bool:
        """Whether it goes on with (mod 11)."""
        return self.token.text == "pmod" or (self.token.text == "(" and self.peek().text in ("mod", "bmod"))

    def modulus(self) -> str:
        if self.accept("bmod") or self.token.text == "mod":
            self.at += self.token.text == "mod"
            digits = self.raw()
            self.expect(")")
            return digits
        return self.raw()

    def is_cross(self, value: Expr) -> bool:
        """Whether an x stands for "times": 1.5 x 10^3."""
        x, right = self.token, self.peek()
        return x.text == "x" and x.spaced and right.kind == "number" and right.spaced and value.head == "number"

    def starts_factor(self) -> bool:
        token = self.token
        match token.kind:
            case "number":
                return True
            case "word":
                return token.text not in AND and token.text != "mod" and not (token.text == "U" and token.spaced)
            case "command":
                return token.text not in _NO_FACTOR
            case "sign":
                return token.text in "([{" or (token.text == "|" and not self.bars and not self.in_set)
        return False

    def starts_unit(self, value: Expr) -> bool:
        token = self.token
        if token.kind == "text":
            return not self.is_and()
        if token.kind == "command":
            return token.text == "$"
        if token.kind == "sign":
            return token.text in "€£"
        if token.kind != "word" or token.text in NAMED or not _is_numeric(value):
            return False
        if len(token.text) > 1:
            return True
        return token.spaced and token.text in units.LETTERS and self.ends_after_letter()

    def ends_after_letter(self) -> bool:
        """Whether a single letter is the last of the answer, but for powers and what it is divided by: 5 m/s^2."""
        ahead = 1
        while self.peek(ahead).text == "^" or (self.peek(ahead).text == "/" and self.peek(ahead + 1).kind == "word"):
            ahead += 4 if self.peek(ahead + 1).text == "{" else 2
        return self.peek(ahead) is END or self.peek(ahead).text in (",", ";", ")")

    def unit(self, value: Expr) -> Expr:
        """What follows a value: words, or a sign of money."""
        value = self.scaled(value)
        words: list[str] = []
        while True:
            token = self.token
            if token.kind in ("command", "sign") and token.text in ("$", "€", "£"):
                words.append(token.text)
            elif token.kind in ("text", "word") and not self.is_and():
                if not is_unit(token):
                    raise Unreadable(f"holds {token.text[:40]!r} after its value")
                words.append(token.text)
            elif token.text == "/" and is_unit(self.peek()):
                words.append("/")
            elif token.text == "^" and words:
                self.at += 1
                words.append(f"^{self.raw()}")
                continue
            else:
                break
            self.at += 1
        if len(words) > 8:
            raise Unreadable("has a sentence after its value")
        if words and units.is_operation(words):
            raise Unreadable(f"has {' '.join(words)[:40]!r} after its value, which is no unit")
        return measured(value, units.canonical(words)) if words else value

    def power(self) -> Expr:
        found = self.atom()
        while True:
            if self.accept("^", "**"):
                if self.accept("circ") or (self.token.text == "{" and self.peek().text == "circ"):
                    if self.accept("{"):
                        self.expect("circ")
                        self.expect("}")
                    scale = self.token.text if self.token.text in ("C", "F") else ""
                    self.at += bool(scale)
                    found = measured(found, f"°{scale}")
                    continue
                if self.token.text == "'" or (self.token.kind == "command" and self.token.text == "prime"):
                    self.at += 1
                    found = primed(found)
                    continue
                found = Expr("^", (found, self.nested(self.exponent)))
            elif self.accept("!"):
                found = Expr("call", ("factorial", found))
            elif self.accept("'"):
                found = primed(found)
            else:
                return found

    def exponent(self) -> Expr:
        is_negative = self.minus()
        found = self.atom()
        if self.accept("^", "**"):
            found = Expr("^", (found, self.nested(self.exponent)))
        return negative(found) if is_negative else found


def _list(groups: list[Expr]) -> Expr:
    """One list, unless every part is a list of its own that names what it gives: x=1, y=2 or x=3, y=4."""
    if len(groups) == 1:
        return groups[0]
    named = all(group.head == "list" and group.args[0].head == "relation" for group in groups)
    if named and len({len(group.args) for group in groups}) == 1:
        return Expr("list", tuple(groups))
    flat = [item for group in groups for item in (group.args if group.head == "list" else (group,))]
    return Expr("list", tuple(flat))


def _has_words_inside(answer: object) -> bool:
    """Whether words stand where only numbers can."""
    if not isinstance(answer, Expr):
        return type(answer) is tuple and any(map(_has_words_inside, answer))
    if answer.head in ("+", "*", "/", "^", "-", "±", "∓", "ratio", "unit", "call", "mod", "union"):
        return any(isinstance(part, Expr) and part.head == "text" for part in answer.args) or any(
            map(_has_words_inside, answer.args)
        )
    return _has_words_inside(answer.args)


def _is_numeric(value: Expr) -> bool:
    """Whether something is a number, so that a word behind it can only be its unit."""
    head, args = value
    match head:
        case "number":
            return True
        case "+" | "*" | "/" | "^" | "-":
            return all(map(_is_numeric, args))
        case "call":
            return args[0] == "sqrt" and _is_numeric(args[1])
    return head == "unit" and args[1] == "%"


def _is_mixed(whole: Expr, fraction: Expr) -> bool:
    if fraction.head != "/" or any(part.head != "number" for part in fraction.args):
        return False
    above, below = fraction.args
    numbers = (whole.args[0], above.args[0], below.args[0])
    return all(value.denominator == 1 for value in numbers) and 0 < numbers[1] < numbers[2]
