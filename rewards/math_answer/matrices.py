r"""Matrices, and sums and products of them.

>>> from grpo_agents.rewards.math_answer.grammar import read
>>> [[str(entry) for entry in row] for row in entries(read(r"2\begin{pmatrix} 1 & x \end{pmatrix}"))]
[['2*1', '2*x']]
"""

from __future__ import annotations

from grpo_agents.rewards.math_answer.expression import Expr, Unreadable, number

Rows = tuple[tuple[Expr, ...], ...]


def has_matrix(expression: Expr) -> bool:
    """Whether this is a matrix, or a sum or product with one."""
    if expression.head == "matrix":
        return True
    return expression.head in ("+", "*", "-", "/") and any(map(has_matrix, expression.args))


def entries(expression: Expr) -> Rows:
    """The entries of a matrix, or of sums and products of matrices and numbers.

    Raises:
        Unreadable: Their shapes do not fit.
    """
    head, args = expression
    if head == "matrix":
        return args
    if head == "-":
        return _scaled(entries(args[0]), number(-1))
    if head == "/" and has_matrix(args[0]) and not has_matrix(args[1]):
        return _scaled(entries(args[0]), Expr("/", (number(1), args[1])))
    if head == "+" and all(map(has_matrix, args)):
        parts = [entries(part) for part in args]
        if len({(len(part), len(part[0])) for part in parts}) == 1:
            return tuple(
                tuple(Expr("+", entries) for entries in zip(*rows, strict=True)) for rows in zip(*parts, strict=True)
            )
    if head == "*":
        product: Rows | None = None
        scale: list[Expr] = []
        for factor in args:
            if not has_matrix(factor):
                scale.append(factor)
            elif product is None:
                product = entries(factor)
            else:
                product = _multiplied(product, entries(factor))
        if product is not None:
            return _scaled(product, *scale) if scale else product
    raise Unreadable("has matrices whose shapes do not fit")


def _scaled(rows: Rows, *factors: Expr) -> Rows:
    return tuple(tuple(Expr("*", (*factors, entry)) for entry in row) for row in rows)


def _multiplied(left: Rows, right: Rows) -> Rows:
    if len(left[0]) != len(right):
        raise Unreadable("has matrices whose shapes do not fit")
    columns = list(zip(*right, strict=True))
    return tuple(
        tuple(Expr("+", tuple(Expr("*", pair) for pair in zip(row, column, strict=True))) for column in columns)
        for row in left
    )
