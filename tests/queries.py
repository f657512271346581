"""PromQL as tests need it: which series an expression asks for, and by which labels."""

from typing import TypeVar

import promql_parser
from promql_parser import AggregateExpr, Expr, VectorSelector

_OF_GRAFANA = {"$__rate_interval": "5m", "$instance": ".*"}
_Kind = TypeVar("_Kind", bound=Expr)


def asked_for(expression: str) -> dict[str, set[str]]:
    """Series and the labels that each is selected or grouped by.

    Raises:
        AssertionError: a variable that no dashboard of ours defines.
        ValueError: no PromQL.
    """
    for name, value in _OF_GRAFANA.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    root = promql_parser.parse(expression)
    found: dict[str, set[str]] = {}
    for selector in _all(root, VectorSelector):
        found.setdefault(str(selector.name), set()).update(matcher.name for matcher in selector.matchers.matchers)
    for group in _all(root, AggregateExpr):
        for selector in _all(group.expr, VectorSelector) if group.modifier else ():
            found[str(selector.name)].update(group.modifier.labels if group.modifier else ())
    return found


def _all(root: Expr, kind: type[_Kind]) -> list[_Kind]:
    found: list[_Kind] = []

    def visit(node: Expr) -> None:
        if isinstance(node, kind):
            found.append(node)

    promql_parser.walk(root, visit)
    return found
