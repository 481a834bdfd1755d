"""A value out of JSON, held against a type: files are changed by hand, and by other versions."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def typed(value: object, hint: Any) -> Any:  # noqa: ANN401 - any type hint, and a value of it
    """Give `value` as `hint` has it: a list becomes a tuple where that is asked for.

    Raises:
        TypeError: it is of another type; the message says "3, not a text".
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _any_of(value, hint)
    if origin is Literal:
        # 1 equals True, and is not meant.
        if any(value == one and type(value) is type(one) for one in inner):
            return value
    elif origin in (tuple, list):
        if isinstance(value, list):
            return _each(value, hint)
    elif type(value) is hint or (get_origin(hint) is dict and isinstance(value, dict)):
        return value
    elif hint is float and type(value) is int:
        return float(value)
    raise TypeError(f"{value!r}, not {_name(hint)}")


def _any_of(value: object, hint: Any) -> Any:  # noqa: ANN401
    for one in get_args(hint):
        try:
            return typed(value, one)
        except TypeError:
            continue
    raise TypeError(f"{value!r}, not {_name(hint)}")


def _each(values: list[object], hint: Any) -> Any:  # noqa: ANN401
    origin, inner = get_origin(hint), get_args(hint)
    of_one_type = origin is list or inner[-1] is Ellipsis
    hints = [inner[0]] * len(values) if of_one_type else inner
    if len(hints) != len(values):
        raise TypeError(f"{values!r}, not {len(hints)} values")
    return origin(typed(value, one) for value, one in zip(values, hints, strict=True))


def _name(hint: Any) -> str:  # noqa: ANN401
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_name(one) for one in inner if one is not NoneType)
    if origin is Literal:
        return " or ".join(map(str, inner))
    return "a list" if origin in (tuple, list) else _NAMES.get(hint, "this")
