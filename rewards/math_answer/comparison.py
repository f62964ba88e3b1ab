"""Whether two answers are the same, by what kind of thing they are.

Everything here is symmetric: comparing in the other order gives the same finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from grpo_agents.rewards.math_answer import real_sets
from grpo_agents.rewards.math_answer.exact import exact
from grpo_agents.rewards.math_answer.expression import Expr, Unreadable, free_names, number
from grpo_agents.rewards.math_answer.matrices import entries, has_matrix
from grpo_agents.rewards.math_answer.meaning import Meaning, has_two_values, items, meant, replaced
from grpo_agents.rewards.math_answer.numeric import NotNumeric, TooLarge, identical, is_close, points, value
from grpo_agents.rewards.math_answer.verdict import Conventions

Prover = Callable[[Expr, Expr], bool | None]
"""Decides what is beyond arithmetic (integrals, limits, inequalities that are not linear); None where it cannot."""

MAX_PAIRS = 2_000
"""Comparisons among the members of two lists."""


class Finding(NamedTuple):
    """Whether two answers are the same (None where nothing showed it), and the rule that decided."""

    same: bool | None
    rule: str


class Comparison:
    """How answers are compared under some conventions.

    Args:
        conventions: What counts as the same.
        prove: Asked where arithmetic does not decide.
    """

    def __init__(self, conventions: Conventions, prove: Prover):
        self.conventions = conventions
        self.prove = prove
        self.pairs = 0

    def answers(self, left: Expr, right: Expr) -> Finding:
        """Two answers, with the names that they give to what they found."""
        if left == right:
            return Finding(True, "structure")
        first, second = meant(left), meant(right)
        if first.label and second.label and first.label != second.label:
            if _is_collection(first.value) or _is_collection(second.value):
                return Finding(False, "label")
            return self.proportional(_equation(first), _equation(second))
        for one, other in ((first, second), (second, first)):
            if one.label and other.value.head == "relation" and other.value.args[0] == ("=",):
                return self.proportional(_equation(one), other.value)
        return self.values(first.value, second.value)

    def values(self, left: Expr, right: Expr) -> Finding:
        """Two values of any kind."""
        if left == right:
            return Finding(True, "structure")
        heads = left.head, right.head
        if "text" in heads:
            return self.texts(left, right)
        if _is_collection(left) or _is_collection(right):
            return self.collections(left, right)
        if real_sets.is_set(left) or real_sets.is_set(right):
            if real_sets.could_be_set(left) and real_sets.could_be_set(right):
                return self.sets(left, right)
            return self.relations(left, right) if heads == ("relation", "relation") else Finding(False, "kind")
        if "relation" in heads:
            return self.relations(left, right) if heads == ("relation", "relation") else Finding(False, "kind")
        if "tuple" in heads or has_matrix(left) or has_matrix(right):
            return self.rows(left, right)
        if "ratio" in heads:
            return self.ratios(left, right)
        if "based" in heads:
            return self.based(left, right)
        if "cases" in heads:
            return self.prover(left, right) if heads == ("cases", "cases") else Finding(False, "kind")
        return self.quantities(left, right)

    def quantities(self, left: Expr, right: Expr) -> Finding:
        """Values with units: they must agree where both are given."""
        (first, unit), (second, other) = _with_unit(left), _with_unit(right)
        if not (unit and other and unit.startswith("% ") and other.startswith("% ")):  # what it is a share of
            unit, other = ("%" if name and name.startswith("% ") else name for name in (unit, other))
        if "°" in (unit, other) and unit != other and self.conventions.degrees == "radians":
            return self.scalars(
                *(part if part.head == "unit" else whole for part, whole in ((left, first), (right, second)))
            )
        if unit == other:
            return self.plain(first, second)
        if "%" in (unit, other) and None in (unit, other):
            share, plain = (first, second) if unit == "%" else (second, first)
            as_value = self.scalars(_hundredth(share), plain)
            if self.conventions.percent == "value" or (as_value.same and self.conventions.percent == "either"):
                return as_value
            return self.scalars(share, plain)
        if unit and other:
            return Finding(False, "unit")
        return self.plain(first, second)

    def plain(self, left: Expr, right: Expr) -> Finding:
        """Two values without their units."""
        return self.ratios(left, right) if "ratio" in (left.head, right.head) else self.scalars(left, right)

    def scalars(self, left: Expr, right: Expr) -> Finding:
        """Two numbers or expressions: exactly, as a rounding, or at many points to many digits."""
        first, second = exact(left), exact(right)
        if first is not None and second is not None:
            if first == second:
                return Finding(True, "number")
            rounded = self.is_rounding(left, first, second) or self.is_rounding(right, second, first)
            return Finding(rounded, "rounded" if rounded else "number")
        for one, other in ((left, right), (right, left)):
            tolerance = self.tolerance(one)
            if tolerance and not free_names(other):
                try:
                    if is_close(one, other, tolerance):
                        return Finding(True, "rounded")
                except NotNumeric:
                    break
        if _is_letter(left) and _is_letter(right):
            return Finding(_spelled(left) == _spelled(right), "text")
        if _has_infinity(left) or _has_infinity(right):
            return Finding(False, "structure")
        try:
            return Finding(identical(left, right), "numeric")
        except TooLarge:
            return Finding(None, "limits")
        except NotNumeric:
            return self.prover(left, right)

    def is_rounding(self, decimal: Expr, rounded: Fraction, exactly: Fraction) -> bool:
        """Whether a decimal is another number, correctly rounded to enough significant digits."""
        tolerance = self.tolerance(decimal)
        return tolerance is not None and abs(rounded - exactly) <= tolerance

    def tolerance(self, decimal: Expr) -> Fraction | None:
        """Half a unit in the last place of a decimal with enough significant digits."""
        if decimal.head == "/" and decimal.args[1] == number(100):  # a percentage
            inner = self.tolerance(decimal.args[0])
            return inner and inner / 100
        if decimal.head != "number" or decimal.args[1] is None:
            return None
        written, place = decimal.args
        digits = len(str(abs(written / place).__floor__()))
        return place / 2 if digits >= self.conventions.digits else None

    def prover(self, left: Expr, right: Expr) -> Finding:
        """What arithmetic does not decide."""
        return Finding(self.prove(left, right), "symbolic")

    def texts(self, left: Expr, right: Expr) -> Finding:
        """Words, by their letters."""
        first, second = _spelled(left), _spelled(right)
        return Finding(first is not None and first == second, "text")

    def collections(self, left: Expr, right: Expr) -> Finding:
        """Lists and sets, in any order; a list without brackets beside a tuple in its order."""
        if left.head == "tuple" or right.head == "tuple":
            one, other = (left, right) if left.head == "tuple" else (right, left)
            if other.head == "list" and not any(map(has_two_values, other.args)) and not _is_pairs(other):
                if len(set(labels := _labels(other.args))) < len(labels):  # two values of one thing
                    return Finding(False, "kind")
                return self.in_order(one.args[1:], _in_order_of_names(other.args))
        if real_sets.is_set(left) or real_sets.is_set(right):
            if real_sets.could_be_set(left) and real_sets.could_be_set(right):
                return self.sets(left, right)
            return Finding(False, "kind")
        first, second = items(left), items(right)
        labels = _labels(first), _labels(second)
        if all(labels):
            if sorted(map(str, labels[0])) == sorted(map(str, labels[1])):
                return self.in_any_order(first, second)
        elif any(labels) and _are_different_quantities(labels[0] or labels[1]):
            return self.in_order(_in_order_of_names(first), _in_order_of_names(second))
        return self.in_any_order([_unlabelled(item) for item in first], [_unlabelled(item) for item in second])

    def in_order(self, left: Sequence[Expr], right: Sequence[Expr]) -> Finding:
        """Members one by one."""
        if len(left) != len(right):
            return Finding(False, "length")
        undecided = False
        for pair in zip(left, right, strict=True):
            finding = self.counted(*pair)
            if finding.same is False:
                return Finding(False, "elements")
            undecided |= finding.same is None
        return Finding(None if undecided else True, "elements")

    def in_any_order(self, left: Sequence[Expr], right: Sequence[Expr]) -> Finding:
        """Whether each member of either has its like in the other; a member that is there twice counts once."""
        exactly = [[exact(item) for item in side] for side in (left, right)]
        if all(found is not None for side in exactly for found in side) and set(exactly[0]) == set(exactly[1]):
            return Finding(True, "elements")
        undecided = False
        for one, other in ((left, right), (right, left)):
            for item in one:
                findings = []
                for candidate in other:
                    finding = self.counted(item, candidate).same
                    findings.append(finding)
                    if finding:
                        break
                if not any(findings):
                    if None not in findings:
                        return Finding(False, "elements")
                    undecided = True
        return Finding(None if undecided else True, "elements")

    def counted(self, left: Expr, right: Expr) -> Finding:
        """Two members, as long as there are not too many."""
        self.pairs += 1
        if self.pairs > MAX_PAIRS:
            raise Unreadable("has too many members to compare")
        return self.answers(left, right)

    def rows(self, left: Expr, right: Expr) -> Finding:
        """Tuples, intervals and matrices; a matrix of one column or row is a tuple too."""
        first, second = (entries(side) if has_matrix(side) else None for side in (left, right))
        if first and second:
            if [len(row) for row in first] != [len(row) for row in second]:
                return Finding(False, "shape")
            return self.in_order([e for row in first for e in row], [e for row in second for e in row])
        if left.head == right.head == "tuple":
            if len(left.args) != len(right.args):
                return Finding(False, "length")
            if left.args[0] != right.args[0] and len(left.args) == 3:
                return Finding(False, "ends")
            return self.in_order(left.args[1:], right.args[1:])
        matrix, row = first or second, left if left.head == "tuple" else right
        if not matrix or row.head != "tuple":
            return Finding(False, "kind")
        if all(line.head == "tuple" for line in row.args[1:]):  # [[1, 2], [3, 4]]
            return self.in_order([Expr("tuple", (("[", "]"), *line)) for line in matrix], row.args[1:])
        if 1 in (len(matrix), len(matrix[0])):
            return self.in_order([entry for line in matrix for entry in line], row.args[1:])
        return Finding(False, "kind")

    def ratios(self, left: Expr, right: Expr) -> Finding:
        """Ratios by proportion; a ratio of two also is their quotient."""
        if left.head == right.head:
            if len(left.args) != len(right.args):
                return Finding(False, "length")
            if any(exact(term) == 0 for term in (*left.args, *right.args)):  # times of day: 12:00 is not 1:00
                return self.in_order(left.args, right.args)
            crossed = [
                (Expr("*", (left.args[0], other)), Expr("*", (right.args[0], one)))
                for one, other in zip(left.args, right.args, strict=True)
            ]
            return self.in_order(*map(list, zip(*crossed, strict=True)))
        ratio, single = (left, right) if left.head == "ratio" else (right, left)
        return self.quantities(Expr("/", ratio.args), single) if len(ratio.args) == 2 else Finding(False, "kind")

    def based(self, left: Expr, right: Expr) -> Finding:
        """Numbers with a base; without one it is ten."""
        first, second = ((side.args if side.head == "based" else (exact(side), 10)) for side in (left, right))
        return Finding(first == second, "base")

    def sets(self, left: Expr, right: Expr) -> Finding:
        """Sets of reals."""
        try:
            return Finding(real_sets.same_set(left, right, lambda one, other: self.scalars(one, other).same), "set")
        except (real_sets.NotLinear, NotNumeric):
            if left.head == right.head == "relation" and (finding := self.relations(left, right)).same:
                return finding
            return self.prover(left, right)

    def relations(self, left: Expr, right: Expr) -> Finding:
        """Equations and inequalities."""
        (signs, terms), (others, counterparts) = left.args, right.args
        if len(signs) != len(others):
            return Finding(False, "relation")
        if len(signs) > 1:
            if signs != others:
                others, counterparts = tuple(_TURNED.get(sign, sign) for sign in reversed(others)), counterparts[::-1]
            return self.in_order(terms, counterparts) if signs == others else Finding(False, "relation")
        return self.proportional(left, right)

    def proportional(self, left: Expr, right: Expr) -> Finding:
        """Whether one is the other multiplied by a number, positive where order counts."""
        (sign, first), (other, second) = _difference(left), _difference(right)
        if sign != other:
            return Finding(False, "relation")
        names = sorted(free_names(first) | free_names(second))
        if not names:
            return self.in_order(left.args[1], right.args[1])
        try:
            for point in points(names):
                values = {entry: number(size) for entry, size in point.items()}
                ones = replaced(first, values), replaced(second, values)
                sizes = [value(one, seed=0) for one in ones]
                if abs(sizes[0]) > 1e-9 and abs(sizes[1]) > 1e-9:
                    break
            else:
                return self.prover(left, right)
            quotient = sizes[0] / sizes[1]
            if sign in ("<", "<=") and (abs(quotient.imag) > 1e-9 or quotient.real <= 0):
                return Finding(False, "relation")
            return Finding(identical(Expr("*", (first, ones[1])), Expr("*", (second, ones[0]))), "relation")
        except NotNumeric:
            return self.prover(left, right)


_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def _difference(relation: Expr) -> tuple[str, Expr]:
    """A relation as one between a difference and zero, with the sign of less."""
    (sign,), (left, right) = relation.args
    if sign in (">", ">="):
        sign, left, right = _TURNED[sign], right, left
    return sign, Expr("+", (left, Expr("-", (right,))))


def _equation(meaning: Meaning) -> Expr:
    return Expr("relation", (("=",), (meaning.label, meaning.value)))


def _is_collection(answer: Expr) -> bool:
    return answer.head in ("list", "set") or (
        answer.head in ("±", "∓", "+", "*", "/", "-", "tuple") and has_two_values(answer)
    )


def _labels(members: Sequence[Expr]) -> list[Expr]:
    """What the members of a list are called, where each has a name."""
    labels = [meant(member).label if member.head == "relation" else None for member in members]
    return [label for label in labels if label] if all(labels) else []


def _are_different_quantities(labels: Sequence[Expr]) -> bool:
    """Whether names speak of different things, whose order matters: x and y; x_1 and x_2 are two values of x."""
    letters = {label.args[0] if label.head == "name" else str(label) for label in labels}
    return len(letters) > 1


def _in_order_of_names(members: Sequence[Expr]) -> list[Expr]:
    """The members without the names that they have; those of x, y and z in this order."""
    names = [str(label) for label in _labels(members)]
    if names and set(names) <= set("xyz"):
        members = [member for _, member in sorted(zip(names, members, strict=True))]
    return list(map(_unlabelled, members))


def _unlabelled(member: Expr) -> Expr:
    if member.head != "relation":
        return member
    meaning = meant(member)
    return meaning.value if meaning.label else member


def _is_pairs(collection: Expr) -> bool:
    """Whether a list holds tuples, so that a tuple beside it is one of them."""
    return any(item.head in ("tuple", "list") for item in collection.args)


def _with_unit(quantity: Expr) -> tuple[Expr, str | None]:
    if quantity.head == "-" and quantity.args[0].head == "unit":
        inner, unit = _with_unit(quantity.args[0])
        return Expr("-", (inner,)), unit
    if quantity.head == "unit":
        inner, own = quantity.args
        return inner if inner.head != "unit" else inner.args[0], own if own not in ("unit", "") else None
    return quantity, None


def _hundredth(share: Expr) -> Expr:
    return Expr("/", (share, number(100)))


def _spelled(answer: Expr) -> str | None:
    """The letters of an answer that is words or could be a word."""
    head, args = answer
    match head:
        case "text":
            return "".join(filter(str.isalpha, args[0]))
        case "name" if not args[1]:
            return args[0].casefold()
        case "constant" if args[0] in ("e", "i", "pi"):
            return args[0]
        case "*":
            letters = [_spelled(part) for part in args]
            return "".join(map(str, letters)) if None not in letters else None
    return None


def _is_letter(answer: Expr) -> bool:
    return answer.head in ("name", "constant") and len(_spelled(answer) or "") == 1


def _has_infinity(expression: Any) -> bool:
    if isinstance(expression, Expr):
        return expression == Expr("constant", ("oo",)) or (
            expression.head not in ("int", "sum", "prod", "lim") and _has_infinity(expression.args)
        )
    return type(expression) is tuple and any(map(_has_infinity, expression))
