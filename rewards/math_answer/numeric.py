"""Whether two expressions are the same, by many digits at several points; in bounded work, without evaluating text.

A first pass with 30 digits refutes most of what is different and learns how large and how small the numbers on the
way are; further ones carry so many digits that nothing of that size could hide below them. Where to compare depends on
the expressions themselves, so that none can be written to agree at these points alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from hashlib import blake2b
from typing import Any

from grpo_agents.rewards.math_answer.expression import Expr, free_names

MAX_MAGNITUDE = 2_000
"""Decimal exponent of the largest number that is worked with; that of the smallest is the negative."""
MAX_OPERATIONS = 3_000
"""Of one evaluation."""
MAX_MULTIPLICATIONS = 10**6
"""Exponent up to which a power is a product."""
MAX_TERMS = 200
"""Of a sum or a product."""
MAX_REPEATED_DIGITS = 900
"""Digits up to which an evaluation is repeated when it met smaller numbers than the one before."""
POINTS = 5
"""At which expressions with variables are compared."""
ENOUGH = 3
"""Real ones among them; where there are fewer, such as those of (-1)^n, as many more whole numbers are tried."""

Point = dict[tuple[str, ...], Fraction]


class NotNumeric(ValueError):
    """This has no value that arithmetic can find: a limit, an integral, a division by zero."""


class TooLarge(NotNumeric):
    """A number on the way, or the work, is over the limits."""


def identical(left: Expr, right: Expr) -> bool:
    """Whether two expressions have the same value wherever both are real.

    Real points count, whole and fractional, of both signs; where neither is real at any of them, complex values do.

    Raises:
        NotNumeric: One of them cannot be evaluated.
    """
    names = sorted(free_names(left) | free_names(right))
    seed = _seed(left, right)
    agreed, complex_verdicts = 0, []
    for which, point in enumerate(points(names, seed)):
        if which >= POINTS and not 0 < agreed < ENOUGH:
            break
        try:
            same, real = _same_at(left, right, point, seed)
        except NotNumeric as error:
            if not names or isinstance(error, TooLarge):
                raise
            continue
        if real and not same:
            return False
        agreed += real
        complex_verdicts.append(same)
    if agreed:
        return True
    if not complex_verdicts:
        raise NotNumeric
    return all(complex_verdicts)


def points(names: Sequence[tuple[str, ...]], seed: int = 0) -> Iterator[Point]:
    """Where to compare: all positive, all negative, mixed, and whole numbers; then more whole numbers.

    Args:
        names: The variables.
        seed: Moves the fractions a little.
    """
    if not names:
        yield {}
        return
    moved = Fraction(seed % 2**61, 2**64)
    for which in range(POINTS):
        sign = (1, -1, -1, 1, 1)[which]
        point: Point = {}
        for at, entry in enumerate(names):
            size = Fraction(29 + 12 * at + 17 * which, 23 + 6 * at + 5 * which) + moved
            flipped = -1 if which == 2 and at % 2 else 1
            point[entry] = Fraction(3 + 2 * at) if which == 3 else sign * flipped * size
        yield point
    for which in range(ENOUGH):
        yield {entry: Fraction((2, 5, 4)[which] + (at * (3, 1, 2)[which])) for at, entry in enumerate(names)}


def value(expression: Expr, point: Point | None = None, digits: int = 30, seed: int | None = None) -> Any:
    """The value of an expression to so many digits, real or complex, as a number of mpmath.

    Args:
        expression: What to evaluate.
        point: Values of its variables.
        digits: How many digits to carry.
        seed: Makes a value for each function that nobody defined; without it they have none.

    Raises:
        NotNumeric: It has none that can be had.
    """
    return _Evaluation(digits, point or {}, seed).finite(expression)


def is_close(left: Expr, right: Expr, tolerance: Fraction) -> bool:
    """Whether two numbers differ by no more than the tolerance.

    Raises:
        NotNumeric: One of them cannot be evaluated.
    """
    context = _context(60)
    difference = value(left, digits=60) - value(right, digits=60)
    return bool(abs(difference) <= context.mpf(tolerance.numerator) / tolerance.denominator)


def _seed(left: Expr, right: Expr) -> int:
    """A number that depends on all of both expressions, and not on their order."""
    return int.from_bytes(blake2b("".join(sorted((repr(left), repr(right)))).encode(), digest_size=16).digest())


def _same_at(left: Expr, right: Expr, point: Point, seed: int) -> tuple[bool, bool]:
    """Whether both have one value at a point, and whether both are real there."""
    last = _Evaluation(30, point, seed)
    pair = last.finite(left), last.finite(right)
    real = all(abs(number.imag) <= abs(number) * last.context.mpf(10) ** -15 for number in pair)
    difference = abs(pair[0] - pair[1])
    if difference > last.context.mpf(10) ** (last.large - 20) and difference > max(map(abs, pair)) * 1e-10:
        return False, real
    while True:
        digits = 60 + 2 * max(last.large, last.small)
        now = _Evaluation(digits, point, seed)
        difference = abs(now.finite(left) - now.finite(right))
        if difference > now.context.mpf(10) ** (now.large + 10 - digits):
            return False, real
        if now.small <= last.small or digits > MAX_REPEATED_DIGITS:
            return True, real
        last = now


class _Contexts(threading.local):
    """mpmath's contexts change their precision while they work, so every thread has its own."""

    def __init__(self) -> None:
        self.by_digits: dict[int, Any] = {}


_CONTEXTS = _Contexts()


def _context(digits: int) -> Any:
    contexts = _CONTEXTS.by_digits
    if digits not in contexts:
        from mpmath.ctx_mp import MPContext

        if len(contexts) > 16:
            contexts.clear()
        contexts[digits] = context = MPContext()
        context.dps = digits
    return contexts[digits]


class _Evaluation:
    """One evaluation to so many digits.

    Attributes:
        large: The decimal exponent of the largest number met on the way.
        small: That of the smallest, without its sign.
    """

    def __init__(self, digits: int, point: Point, seed: int | None):
        self.context = _context(digits)
        self.point = point
        self.seed = seed
        self.large = 0
        self.small = 0
        self.operations = 0

    def finite(self, expression: Expr) -> Any:
        try:
            found = self.value(expression)
        except NotNumeric:
            raise
        except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
            raise NotNumeric(str(error)) from error
        if not self.context.isfinite(found):
            raise NotNumeric("infinite")
        return found

    def value(self, expression: Expr) -> Any:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise TooLarge("too much work")
        return self.noted(self.operation(expression))

    def noted(self, found: Any) -> Any:
        """A number on the way, when its size has been noted."""
        if found:
            exponent = self.context.mag(found)
            if not abs(exponent) < MAX_MAGNITUDE * 3.33:  # also where it is infinite or no number
                raise TooLarge("too large or too small")
            size = int(exponent * 0.30103)
            self.large, self.small = max(self.large, size), max(self.small, -size)
        return found

    def operation(self, expression: Expr) -> Any:
        context = self.context
        head, args = expression
        match head:
            case "number":
                return context.mpf(args[0].numerator) / args[0].denominator
            case "name":
                if args not in self.point:
                    raise NotNumeric("a name without a value")
                number = self.point[args]
                return context.mpf(number.numerator) / number.denominator
            case "constant":
                if args in self.point:  # an index i
                    return context.mpf(int(self.point[args]))
                return self.constant(args[0])
            case "-":
                return -self.value(args[0])
            case "+":
                return sum((self.value(term) for term in args), context.mpf(0))
            case "*":
                product = context.mpf(1)
                for factor in args:
                    product *= self.value(factor)
                return product
            case "/":
                return self.value(args[0]) / self.value(args[1])
            case "^":
                return self.power(self.value(args[0]), self.value(args[1]))
            case "mod":
                return self.value(args[0]) % self.value(args[1])
            case "unit" if args[1] == "°":
                return self.value(args[0]) * context.pi / 180
            case "unit" if args[1] == "%":
                return self.value(args[0]) / 100
            case "call":
                return self.call(args[0], args[1:])
            case "sum" | "prod":
                return self.series(head, args)
        raise NotNumeric(f"{head} has no number")

    def constant(self, which: str) -> Any:
        match which:
            case "pi":
                return +self.context.pi
            case "e":
                return +self.context.e
            case "i":
                return self.context.mpc(0, 1)
        raise NotNumeric(f"{which} is no number")

    def power(self, base: Any, exponent: Any) -> Any:
        """The principal power."""
        context = self.context
        if base and abs(exponent) * abs(context.log(abs(base))) > MAX_MAGNITUDE * 3:
            raise TooLarge("too large a power")
        if abs(exponent) > MAX_MULTIPLICATIONS:
            return context.exp(exponent * context.log(base))
        return base**exponent

    def call(self, function: str, args: tuple[Expr, ...]) -> Any:
        context = self.context
        if function == "det":
            matrix = args[0]
            if matrix.head != "matrix" or not len(matrix.args) == len(matrix.args[0]) <= 8:
                raise TooLarge("no determinant of that size")
            return context.det(context.matrix([[self.value(entry) for entry in row] for row in matrix.args]))
        values = [self.value(part) for part in args]
        if function == "log" and len(values) == 2:
            return context.log(values[0]) / context.log(values[1])
        if function in ("max", "min", "floor", "ceil", "sgn") and any(number.imag for number in values):
            raise NotNumeric(f"{function} of a complex number")
        if function in ("floor", "ceil", "sgn"):
            values = [self.snapped(values[0].real)]
        if function in ("tanh", "coth"):
            self.noted(context.exp(2 * values[0]))  # as near as this they come to 1
        if function == "root":
            degree = values[1]
            if not values[0].imag and values[0].real < 0 and degree == int(degree.real) and int(degree.real) % 2:
                return -((-values[0]) ** (1 / degree))  # the real root, as schools teach it
            return values[0] ** (1 / degree)
        if len(values) == 1 and function in _FUNCTIONS:
            return getattr(context, _FUNCTIONS[function])(*values)
        if function in ("max", "min"):
            return max(values) if function == "max" else min(values)
        if function == "binom" and len(values) == 2:
            return context.binomial(*values)
        if function in ("gcd", "lcm", "binom", "root", "log", *_FUNCTIONS):
            raise NotNumeric(f"{function} is not evaluated here")
        if self.seed is None:
            raise NotNumeric(f"{function} is defined nowhere")
        # A function that nobody defined: some value that depends on its name and its arguments, and on nothing else.
        own = int.from_bytes(blake2b(f"{self.seed} {function}".encode(), digest_size=8).digest())
        mixed = sum((number * (at + 2) for at, number in enumerate(values)), context.mpf(own) / 2**64)
        return context.sin(mixed) + 2 + context.mpf(own) / 2**56

    def snapped(self, size: Any) -> Any:
        """A number, or the whole number that it cannot be told from."""
        whole = self.context.nint(size)
        noise = self.context.mpf(10) ** (self.large + 10 - self.context.dps)
        return whole if abs(size - whole) < noise else size

    def series(self, which: str, args: tuple[Expr, ...]) -> Any:
        body, index, start, end = args
        first, last = self.value(start), self.value(end)  # infinity is no number
        if first != int(first.real) or last != int(last.real):
            raise NotNumeric("a sum without whole bounds")
        if last - first >= MAX_TERMS:
            raise TooLarge("too many terms")
        total = self.context.mpf(which == "prod")
        outer = self.point
        for step in range(int(first), int(last) + 1):
            self.point = {**outer, index.args: Fraction(step)}
            term = self.value(body)
            total = total + term if which == "sum" else total * term
        self.point = outer
        return total


_FUNCTIONS: dict[str, str] = {
    **{same: same for same in "sin cos tan cot sec csc sinh cosh tanh coth exp sqrt floor ceil arg factorial".split()},
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "ln": "log", "log": "log", "abs": "fabs",
    "sgn": "sign", "Re": "re", "Im": "im", "deg": "radians",
}  # fmt: skip
