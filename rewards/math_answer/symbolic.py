"""What arithmetic does not decide, decided by sympy: integrals, limits, series, inequalities, cases.

Runs in a worker process that is killed when it takes too long (:mod:`grpo_agents.workers`), and imports nothing of
this project, so that the process is soon there. It is handed trees, never text.

>>> two = ["number", "2", None]
>>> decide({"left": ["call", "sqrt", two], "right": ["^", two, ["number", "1/2", None]]})
True
"""

from __future__ import annotations

from typing import Any

import sympy
from sympy import S

_SIGNS = {
    "=": sympy.Eq, "<": sympy.Lt, ">": sympy.Gt, "<=": sympy.Le, ">=": sympy.Ge, "!=": sympy.Ne,
}  # fmt: skip
_CONSTANTS = {"pi": S.Pi, "e": S.Exp1, "i": S.ImaginaryUnit, "oo": S.Infinity, "R": S.Reals, "empty": S.EmptySet}
_FUNCTIONS = {
    **{
        name: getattr(sympy, name)
        for name in "sin cos tan cot sec csc sinh cosh tanh coth sqrt factorial gcd lcm exp arg re im".split()
    },
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot, "ln": sympy.log,
    "log": sympy.log, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling, "max": sympy.Max,
    "min": sympy.Min, "binom": sympy.binomial, "root": sympy.real_root, "sgn": sympy.sign, "Re": sympy.re,
    "Im": sympy.im,
}  # fmt: skip
_SETS = frozenset(("set", "union", "intersection", "difference", "relation", "tuple"))
_POINTS = (sympy.Rational(7, 5), sympy.Rational(-13, 6), sympy.Rational(3), sympy.Rational(41, 17))

Tree = Any
"""A node as JSON: its head and its arguments in one list, fractions as text."""


def decide(request: dict[str, Tree]) -> bool | None:
    """Whether two trees say the same.

    Args:
        request: ``left`` and ``right``.

    Returns:
        None where that could not be shown.
    """
    left, right = request["left"], request["right"]
    if left[0] in _SETS or right[0] in _SETS:
        return _same_set(_as_set(left), _as_set(right))
    return _same_value(_built(left).doit(), _built(right).doit())


def _same_set(left: Any, right: Any) -> bool | None:
    if left == right:
        return True
    contained = left.is_subset(right), right.is_subset(left)
    if False in contained:
        return False
    return True if all(contained) else None


def _same_value(left: Any, right: Any) -> bool | None:
    if any(side.has(S.NaN, S.ComplexInfinity) for side in (left, right)):
        return None  # a division by zero is no value
    if left == right:
        return True
    difference = left - right
    names = sorted(difference.free_symbols, key=str)
    for at in range(len(_POINTS) if names else 1):
        values = {name: _POINTS[(at + turn) % len(_POINTS)] for turn, name in enumerate(names)}
        size = sympy.N(difference.subs(values), 30, maxn=200)
        if size.is_number and size.is_finite and abs(size) > sympy.Float("1e-20"):
            return False
    return True if sympy.simplify(difference) == 0 else None


def _as_set(tree: Tree) -> Any:
    """A tree as a set of reals."""
    head, *args = tree
    match head:
        case "set":
            return sympy.FiniteSet(*map(_built, args))
        case "tuple":
            (opening, closing), low, high = args
            return sympy.Interval(_built(low), _built(high), opening == "(", closing == ")")
        case "union":
            return sympy.Union(*map(_as_set, args))
        case "intersection":
            return sympy.Intersection(*map(_as_set, args))
        case "difference":
            return sympy.Complement(*map(_as_set, args))
        case "relation":
            signs, terms = args
            if signs == ["in"]:
                return _as_set(terms[1])
            built = [_built(term) for term in terms]
            parts = [_SIGNS[sign](*built[at : at + 2]) for at, sign in enumerate(signs)]
            return sympy.Intersection(*map(_solutions, parts))
    return _built(tree)


def _solutions(relation: Any) -> Any:
    if relation in (S.true, S.false):
        return S.Reals if relation == S.true else S.EmptySet
    (name,) = relation.free_symbols
    return sympy.solveset(relation, name, S.Reals)


def _built(tree: Tree, bound: dict[str, Any] | None = None) -> Any:
    """A tree as sympy has it; names are real."""
    head, *args = tree
    bound = bound or {}

    def inner(part: Tree) -> Any:
        found = _built(part, bound)
        if not isinstance(found, sympy.Expr):
            raise ValueError(f"{found} is no number")
        return found

    match head:
        case "number":
            return sympy.Rational(args[0])
        case "constant":
            return bound.get(args[0]) or _CONSTANTS[args[0]]
        case "name":
            written = "_".join(filter(None, args))
            return bound.get(written) or sympy.Symbol(written, real=True)
        case "+":
            return sympy.Add(*map(inner, args))
        case "-":
            return -inner(args[0])
        case "*":
            return sympy.Mul(*map(inner, args))
        case "/":
            return inner(args[0]) / inner(args[1])
        case "^":
            return sympy.Pow(inner(args[0]), inner(args[1]))
        case "mod":
            return sympy.Mod(inner(args[0]), inner(args[1]))
        case "unit":
            return inner(args[0]) * {"°": S.Pi / 180, "%": S.One / 100}[args[1]]
        case "call":
            function = _FUNCTIONS.get(args[0]) or sympy.Function(args[0])
            return function(*map(inner, args[1:]))
        case "relation":
            built = [inner(term) for term in args[1]]
            return sympy.And(*(_SIGNS[sign](*built[at : at + 2]) for at, sign in enumerate(args[0])))
        case "cases":
            return sympy.Piecewise(*((inner(value), _condition(when, bound)) for value, when in args))
        case "sum" | "prod" | "int" | "lim":
            body, index, low, high = args
            written = "_".join(filter(None, index[1:]))
            name = sympy.Symbol(written, real=True, integer=True if head in ("sum", "prod") else None)
            body = _built(body, {**bound, written: name})
            if head == "lim":
                return sympy.Limit(body, name, inner(low), "+-" if inner(low).is_finite else "-")
            limits = (name,) if low is None else (name, inner(low), inner(high))
            return {"sum": sympy.Sum, "prod": sympy.Product, "int": sympy.Integral}[head](body, limits)
    raise ValueError(f"{head} is nothing that sympy is asked about")


def _condition(tree: Tree, bound: dict[str, Any]) -> Any:
    if tree[0] == "text":  # otherwise
        return S.true
    return _built(tree, bound)
