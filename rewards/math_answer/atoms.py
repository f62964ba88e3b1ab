r"""Reads what an expression is made of: numbers, names, functions, brackets, matrices, sums and limits."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from fractions import Fraction

from grpo_agents.rewards.math_answer import units
from grpo_agents.rewards.math_answer.cursor import Cursor
from grpo_agents.rewards.math_answer.expression import (
    Expr,
    Unreadable,
    constant,
    measured,
    members,
    name,
    negative,
    number,
    times,
)
from grpo_agents.rewards.math_answer.tokens import (
    CLOSING,
    CONSTANTS,
    DECORATED,
    END,
    FUNCTIONS,
    GREEK,
    MATRICES,
    WRITTEN_AS,
    Token,
    folded,
)

MAX_ITEMS = 200
"""Entries of a list, a set or a matrix."""

_APPLIED = frozenset("fghFGHW")
"""Letters that are functions where a bracket follows."""


class Atoms(Cursor, ABC):
    """Methods that read one thing each; what stands between those is the grammar's."""

    @abstractmethod
    def sequence(self) -> Expr:
        """Things between separators."""

    @abstractmethod
    def relation(self) -> Expr:
        """Terms with signs of equality or order between them."""

    @abstractmethod
    def sum(self) -> Expr:
        """Terms."""

    @abstractmethod
    def product(self) -> Expr:
        """Factors."""

    @abstractmethod
    def power(self) -> Expr:
        """An atom with its exponent and what else comes after it."""

    @abstractmethod
    def starts_factor(self) -> bool:
        """Whether a factor follows."""

    def atom(self) -> Expr:
        """The next thing, whatever it is."""
        token = self.token
        match token.kind:
            case "number":
                self.at += 1
                return self.number(token.text)
            case "word":
                self.at += 1
                return self.word(token.text)
            case "text":
                return self.text()
            case "command":
                self.at += 1
                return self.command(token.text)
            case "sign":
                if token.text == "|":
                    return self.bar("|", "|")
                if token.text in "([{":
                    self.at += 1
                    return self.bracket(token.text)
                if token.text in "€£":
                    self.at += 1
                    return measured(self.nested(self.power), units.canonical([token.text]))
        raise self.unexpected()

    def number(self, digits: str) -> Expr:
        """A number, with its period, or its base below it."""
        if "." in digits and self.accept("overline", "bar", "dot"):
            return self.repeating(digits)
        if digits.isdigit() and self.token.text == "_" and self.peek().text in ("{", *map(str, range(2, 37))):
            self.at += 1
            base = self.raw()
            return _in_base(digits, base.strip("()"))
        return decimal(digits)

    def repeating(self, digits: str) -> Expr:
        r"""A decimal whose period follows: 0.1\overline{6}."""
        period = self.raw()
        if not period.isdecimal() or len(period) > 20:
            raise Unreadable("has a period that is no number")
        places = len(digits.partition(".")[2])
        rest = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
        return number(Fraction(digits.rstrip(".")) + rest)

    def word(self, letters: str) -> Expr:
        """A function, a constant or a variable; words otherwise."""
        letters = WRITTEN_AS.get(letters, letters)
        if letters in FUNCTIONS:
            return self.call(letters)
        if letters in CONSTANTS:
            return constant(CONSTANTS[letters])
        if len(letters) == 1 and letters.isascii():
            return self.named(letters)
        if letters in GREEK:
            return self.named(letters)
        words = [letters]
        while self.token.kind == "word" and not self.is_and():
            words.append(self.token.text)
            self.at += 1
        if self.token.kind in ("number", "command") or self.token.text in ("(", "{", "^", "*", "/", "+"):
            raise Unreadable(f"holds {letters[:40]!r} where a number or a name is expected")
        self.has_words = True
        return Expr("text", (folded(" ".join(words)),))

    def text(self) -> Expr:
        r"""What stands in \text{}: a number or a letter if it is one, words otherwise."""
        inside = self.token.text
        self.at += 1
        if re.fullmatch(r"-?[\d.,]+", inside) and any(map(str.isdigit, inside)):
            return decimal(inside.replace(",", ""))
        if found := re.fullmatch(r"\(?([A-Za-z])\)?", inside.strip()):
            return self.named(found[1]) if self.token.text in ("_", "^", "'", "(") else name(found[1])
        words = [inside]
        while self.token.kind in ("text", "word") and not self.is_and():
            words.append(self.token.text)
            self.at += 1
        self.has_words = True
        return Expr("text", (folded(" ".join(words)),))

    def named(self, letters: str) -> Expr:
        """A variable with what is written below it, or a function's value; e and i are the constants."""
        subscript = self.raw() if self.accept("_") else ""
        if letters in ("e", "i") and not subscript:
            return constant(letters)
        found = name(letters, subscript)
        if letters in _APPLIED and [token.text for token in self.tokens[self.at : self.at + 6]] == [*"^{-1}("]:
            self.at += 5  # the inverse function
            found = name(f"{letters}^-1", subscript)
        while self.accept("'"):
            found = primed(found)
        if letters in _APPLIED and self.token.text == "(" and not self.token.spaced:
            self.at += 1
            inside = self.bracket("(")
            return Expr("call", (str(found), *members(inside)))
        return found

    def command(self, which: str) -> Expr:
        """What a LaTeX command stands for."""
        if which in FUNCTIONS or which in WRITTEN_AS:
            return self.call(WRITTEN_AS.get(which, which))
        if which in CONSTANTS:
            return constant(CONSTANTS[which])
        if which in GREEK:
            return self.named(which)
        match which:
            case "frac":
                above = self.argument()
                return Expr("/", (above, self.argument()))
            case "binom" | "tbinom" | "dbinom":
                above = self.argument()
                return Expr("call", ("binom", above, self.argument()))
            case "boxed" | "fbox" | "underline":
                return self.argument()
            case "{":
                return self.set()
            case "langle" | "lfloor" | "lceil":
                return self.bracket(which)
            case "lvert" | "vert" | "|":
                self.at -= 1
                return self.bar(which, CLOSING.get(which, which))
            case "begin":
                return self.nested(self.environment)
            case "sum" | "prod":
                return self.nested(lambda: self.indexed(which))
            case "int":
                return self.nested(self.integral)
            case "lim":
                return self.nested(self.limit)
            case "$":
                is_negative = self.minus()
                price = measured(self.scaled(self.nested(self.power)), "$")
                return negative(price) if is_negative else price
            case "#":
                return self.nested(self.power)
            case "R" | "reals":
                return constant("R")
        if which in DECORATED:
            inside = self.raw() if self.token.text == "{" else "".join(self.letters())
            if which == "mathbb" and inside == "R":
                return constant("R")
            return name(f"{which} {inside}")
        self.at -= 1
        raise self.unexpected()

    def letters(self) -> list[str]:
        r"""The names that follow, as in \angle ABC."""
        found = []
        while self.token.kind == "word":
            found.append(self.token.text)
            self.at += 1
        if not found:
            raise self.unexpected("a name is missing")
        return found

    def argument(self) -> Expr:
        """Of a LaTeX command: a group in braces, or a single digit, letter or command."""
        token = self.token
        if token.kind == "number" and len(token.text) > 1:  # of \frac12 it is the 1
            self.tokens[self.at] = Token("number", token.text[1:], False)
            if token.text[0] == ".":
                raise self.unexpected()
            return decimal(token.text[0])
        if token.kind == "sign" and token.text == "{":
            self.at += 1
            return self.bracket("{")
        return self.nested(self.atom)

    def call(self, function: str) -> Expr:
        r"""A function with its power, its base and its argument: \log_2 8, \sin^2 x, sqrt(2), \sqrt[3]{x}."""
        power = base = None
        if function == "sqrt":
            if self.accept("["):
                base = self.bracket("[")
                base = base.args[1] if base.head == "tuple" else base
            argument = self.argument() if self.token.text == "{" else self.nested(self.power)
            return Expr("call", ("root", argument, base) if base else ("sqrt", argument))
        if self.accept("_"):
            base = self.argument()
        if self.accept("^"):
            power = self.argument()
        if function in ("gcd", "lcm", "max", "min"):
            inside = self.nested(self.atom)
            return Expr("call", (function, *members(inside)))
        argument = self.function_argument()
        if power == negative(number(1)) and function in ("sin", "cos", "tan", "cot"):
            return Expr("call", (f"arc{function}", argument))
        if function == "lg":
            function, base = "log", number(10)
        if function == "exp":
            found = Expr("^", (constant("e"), argument))
        elif function == "cis":
            found = Expr("^", (constant("e"), Expr("*", (constant("i"), argument))))
        elif function == "ln" or (function == "log" and base is None):
            found = Expr("call", ("ln" if function == "ln" else "log", argument))
        else:
            found = Expr("call", (function, argument) if base is None else (function, argument, base))
        return Expr("^", (found, power)) if power else found

    def function_argument(self) -> Expr:
        """In brackets, or as many factors as follow: sin 2x."""
        if self.token.text in ("(", "{", "[") and self.token.kind == "sign":
            bracket = self.token.text
            self.at += 1
            return self.bracket(bracket)
        if self.token.text == "det" or (self.token.kind == "command" and self.token.text == "begin"):
            return self.nested(self.atom)
        if self.token.text in ("-", "+"):
            return negative(self.function_argument()) if self.minus() else self.function_argument()
        factors = self.nested(self.power)
        while self.starts_factor() and not self.starts_function() and self.token.text != "(":
            factors = times(factors, self.nested(self.power))
        if self.token.text == "/" and self.peek().kind == "number" and not self.token.spaced:  # sin pi/2
            self.at += 1
            factors = Expr("/", (factors, self.nested(self.power)))
        return factors

    def starts_function(self) -> bool:
        """Whether a function follows."""
        return self.token.text in FUNCTIONS or self.token.text in WRITTEN_AS

    def scaled(self, value: Expr) -> Expr:
        """A value times the number words behind it: 1.25 million."""
        while self.token.kind in ("word", "text") and (scale := units.SCALES.get(folded(self.token.text))):
            self.at += 1
            if value.head == "number":
                value = number(*(part and part * scale for part in value.args))
            else:
                value = Expr("*", (value, number(scale)))
        return value

    def bracket(self, opening: str) -> Expr:
        """After an opening bracket: what it groups, a tuple or an interval."""
        if self.token.text == CLOSING[opening] and self.token.kind in ("sign", "command"):
            raise Unreadable("has empty brackets")
        inside = self.nested(self.sequence)
        closing = CLOSING[opening]
        if opening == "{" and (joined := self.accept("over", "choose")):
            below = self.nested(self.sequence)
            inside = Expr("/", (inside, below)) if joined == "over" else Expr("call", ("binom", inside, below))
        if opening in "([":
            closing = self.accept(")", "]")
            if not closing:
                raise self.unexpected("a bracket should close")
        else:
            self.expect(closing)
        if opening in ("lfloor", "lceil"):
            return Expr("call", (opening[1:], inside))
        if opening == "{":
            return inside
        if inside.head == "list":
            brackets = (("(", ")") if opening == "langle" else (opening, closing),)
            return Expr("tuple", (*brackets, *inside.args))
        if CLOSING[opening] != closing:
            raise Unreadable(f"opens {opening!r} and closes {closing!r}")
        return inside

    def bar(self, opening: str, closing: str) -> Expr:
        """An absolute value, or the determinant of a matrix."""
        self.expect(opening)

        def inside() -> Expr:
            self.bars = True
            found = self.sum()
            self.expect(closing)
            return found

        value = self.nested(inside)
        return Expr("call", ("det" if value.head == "matrix" else "abs", value))

    def set(self) -> Expr:
        """After an opening brace of a set: its elements, or what they are such that."""

        def inside() -> Expr:
            self.in_set = True
            if self.token.kind == "command" and self.token.text == "}":
                return constant("empty")
            found = self.sequence()
            if not self.accept(":", "|", "mid"):
                return Expr("set", found.args if found.head == "list" else (found,))
            self.in_set = False
            return self.sequence()

        found = self.nested(inside)
        self.expect("}")
        return found

    def environment(self) -> Expr:
        r"""A matrix or cases, after \begin."""
        kind = self.raw()
        if kind not in MATRICES and kind != "cases":
            raise Unreadable(f"holds the environment {kind[:40]!r}, which is not read here")
        if kind == "array":
            self.raw()
        rows: list[tuple[Expr, ...]] = []
        entries: list[Expr] = []
        while True:
            if self.token.kind == "command" and self.token.text in ("\\", "end"):
                if entries:
                    rows.append(tuple(entries))
                entries = []
                self.at += 1
                if self.tokens[self.at - 1].text == "end":
                    break
                continue
            if entries and self.token.text in ("if", "when", "for"):
                self.at += 1
            entries.append(self.sequence())
            if self.token.text == "&":
                self.at += 1
            elif self.token.text not in ("\\", "end"):
                raise self.unexpected("an entry should end")
            if len(rows) * len(entries) > MAX_ITEMS:
                raise Unreadable(f"has more than {MAX_ITEMS} entries")
        if self.raw() != kind:
            raise Unreadable(f"does not close its {kind}")
        if not rows or len({len(row) for row in rows}) > 1:
            raise Unreadable("has rows of different lengths")
        if kind == "cases":
            if len(rows[0]) != 2:
                raise Unreadable("has cases without a condition")
            return Expr("cases", tuple(rows))
        matrix = Expr("matrix", tuple(rows))
        return Expr("call", ("det", matrix)) if kind == "vmatrix" else matrix

    def indexed(self, which: str) -> Expr:
        r"""\sum_{k=1}^{n} and \prod."""
        self.expect("_")
        self.expect("{")
        start = self.relation()
        self.expect("}")
        self.expect("^")
        end = self.argument()
        if start.head != "relation" or start.args[0] != ("=",) or start.args[1][0].head not in ("name", "constant"):
            raise Unreadable(f"has a {which} without an index")
        return Expr(which, (self.product(), *start.args[1], end))

    def limit(self) -> Expr:
        r"""After \lim."""
        self.expect("_")
        self.expect("{")
        bound = self.atom()
        if not self.accept("to", "rightarrow", "->"):
            raise self.unexpected("an arrow is missing")
        where = self.sum()
        self.expect("}")
        return Expr("lim", (self.product(), bound, where, None))

    def integral(self) -> Expr:
        r"""After \int, up to its dx."""
        lower = upper = None
        if self.accept("_"):
            lower = self.argument()
            self.expect("^")
            upper = self.argument()
        start, end = self.at, self.at
        while end < len(self.tokens) and not (self.tokens[end].text == "d" and end + 1 < len(self.tokens)):
            end += 1
        if end == len(self.tokens) or end == start:
            raise Unreadable("has an integral without a dx")
        rest = self.tokens[end:]
        self.tokens = self.tokens[:end]
        body = self.sum()
        if self.token is not END:
            raise self.unexpected("the integrand should end")
        self.tokens += rest
        self.at += 1
        return Expr("int", (body, self.atom(), lower, upper))


def decimal(digits: str) -> Expr:
    """A number as it is written, with what its last digit stands for where that is a decimal place."""
    mantissa, _, power = digits.casefold().partition("e")
    whole, _, fraction = mantissa.partition(".")
    if not fraction and not power:
        return number(int(whole))
    shift = int(power or 0) - len(fraction)
    place = Fraction(10**shift) if shift > 0 else Fraction(1, 10**-shift)
    try:
        return number(int(whole + fraction) * place, place)
    except ValueError:
        raise Unreadable(f"holds {digits[:40]!r}, which is no number") from None


def _in_base(digits: str, base: str) -> Expr:
    if not base.isdecimal() or not 2 <= int(base) <= 36:
        raise Unreadable(f"has the base {base[:40]!r}")
    try:
        return Expr("based", (Fraction(int(digits, int(base))), int(base)))
    except ValueError:
        raise Unreadable(f"has a digit that base {base} lacks") from None


def primed(value: Expr) -> Expr:
    """A name with one more prime."""
    if value.head != "name":
        raise Unreadable("has a prime after what is no name")
    return name(f"{value.args[0]}'", value.args[1])
