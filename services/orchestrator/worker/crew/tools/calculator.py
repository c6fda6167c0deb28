"""Arithmetic, worked out from the expression's syntax tree: nothing of it is ever evaluated as Python."""

import ast
import math
import operator
from collections.abc import Callable
from decimal import Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from typing import Any

from services.orchestrator.worker.crew.tools.base import JournaledTool, ToolFailed

_PRECISION = 60
_LARGEST_EXPONENT = 10_000
_DEEPEST = 100


def _divide_down(left: Decimal, right: Decimal) -> Decimal:
    return (left / right).to_integral_value(rounding="ROUND_FLOOR")


def _modulo(left: Decimal, right: Decimal) -> Decimal:
    return left - right * _divide_down(left, right)


def _power(base: Decimal, exponent: Decimal) -> Decimal:
    if abs(exponent) > _LARGEST_EXPONENT:
        raise ToolFailed(f"an exponent may be at most {_LARGEST_EXPONENT}")
    return base**exponent


def _round(value: Decimal, places: Decimal = Decimal(0)) -> Decimal:
    if places != places.to_integral_value() or abs(places) > _PRECISION:
        raise ToolFailed("round takes a whole number of places")
    return value.quantize(Decimal(1).scaleb(-int(places)), rounding="ROUND_HALF_EVEN")


_BINARY: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: _divide_down,
    ast.Mod: _modulo,
    ast.Pow: _power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Decimal], Decimal]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Decimal]] = {
    "abs": abs,
    "round": _round,
    "min": min,
    "max": max,
    "sqrt": lambda value: value.sqrt(),
}
_CONSTANTS = {"pi": Decimal(str(math.pi)), "e": Decimal(str(math.e))}


def calculate(expression: str, decimal_places: int) -> str:
    """Return the value of an arithmetic expression, rounded to `decimal_places` and without trailing zeros.

    Raises:
        ToolFailed: it is not a valid expression, or has no value.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolFailed("this is not a valid arithmetic expression") from error
    with localcontext() as context:
        context.prec = _PRECISION
        try:
            value = _value(tree.body, _DEEPEST)
            if value.adjusted() + decimal_places < _PRECISION - 1:
                value = _round(value, Decimal(decimal_places))
        except DivisionByZero as error:
            raise ToolFailed("division by zero") from error
        except Overflow as error:
            raise ToolFailed("the result is too large") from error
        except (InvalidOperation, TypeError) as error:
            raise ToolFailed("the expression has no value") from error
        if not value.is_finite():
            raise ToolFailed("the expression has no finite value")
        value = value.normalize() + 0  # no trailing zeros and no negative zero
        return f"{value:f}" if value.adjusted() < _PRECISION else str(value)


def _value(node: ast.expr, deepest: int) -> Decimal:
    if not deepest:
        raise ToolFailed("the expression is nested too deep")
    match node:
        case ast.Constant(value=bool()):
            raise ToolFailed("only numbers can be calculated with")
        case ast.Constant(value=int() | float() as number):
            return Decimal(str(number))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _BINARY[type(sign)](_value(left, deepest - 1), _value(right, deepest - 1))
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand, deepest - 1))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS and arguments:
            return _FUNCTIONS[name](*(_value(argument, deepest - 1) for argument in arguments))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case _:
            raise ToolFailed(
                f"only + - * / // % **, parentheses and {', '.join(sorted(_FUNCTIONS))} are understood, "
                f"not {ast.unparse(node)[:80]!r}"
            )


class Calculator(JournaledTool):
    """Works out an arithmetic expression."""

    def perform(self, **arguments: Any) -> str:
        """Return its value."""
        return calculate(arguments["expression"], self._config.get("decimal_places", 10))
