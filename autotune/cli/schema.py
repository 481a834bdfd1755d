"""The JSON Schema of what `lcm` prints, generated from the types in `autotune.cli.answer`.

python -m autotune.cli.schema > docs/schema.json
"""

from typing import Annotated, Any, Literal, NotRequired, get_args, get_origin, get_type_hints

from autotune.cli import answer, console

Schema = dict[str, Any]

_SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def json_schema() -> Schema:
    """The schema that every answer is valid under."""
    definitions: dict[str, Schema] = {}
    answers = (
        answer.RunAnswer,
        answer.InspectAnswer,
        answer.DoctorAnswer,
        answer.ListAnswer,
        answer.ShowAnswer,
        answer.CompareAnswer,
        answer.VerifyAnswer,
        answer.FleetStatusAnswer,
    )
    roots = [_schema(section, definitions) for section in answers]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What lcm prints on stdout",
        "anyOf": roots,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema(hint: Any, definitions: dict[str, Schema]) -> Schema:  # noqa: ANN401 - any type hint
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None:
        return _named(hint, definitions)
    if origin is Literal:
        return {"enum": list(arguments)}
    inner = [_schema(arg, definitions) for arg in arguments if not isinstance(arg, str)]
    if origin is Annotated:
        return {**inner[0], "description": arguments[1]}
    if origin is list:
        return {"type": "array", "items": inner[0]}
    if origin is dict:
        return {"type": "object", "additionalProperties": inner[1]}
    return inner[0] if origin is NotRequired else {"anyOf": inner}


def _named(hint: Any, definitions: dict[str, Schema]) -> Schema:  # noqa: ANN401 - a class
    """A scalar, or a section that is described once and referred to."""
    if hint is object:  # Anything.
        return {}
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if hint.__name__ not in definitions:
        definitions[hint.__name__] = {}  # Taken, before its own keys are looked at.
        definitions[hint.__name__] = _object(hint, definitions)
    return {"$ref": f"#/$defs/{hint.__name__}"}


def _object(section: Any, definitions: dict[str, Schema]) -> Schema:  # noqa: ANN401 - a TypedDict
    hints = get_type_hints(section, include_extras=True)
    schema: Schema = {
        "type": "object",
        "properties": {key: _schema(hint, definitions) for key, hint in hints.items()},
        # Where annotations are texts, as here, a class takes what it need not have for required.
        "required": [
            key
            for key, hint in hints.items()
            if key in section.__required_keys__ and get_origin(hint) is not NotRequired
        ],
    }
    documentation = (section.__doc__ or "").strip()
    return {"description": documentation, **schema} if documentation else schema


if __name__ == "__main__":
    console.answer(json_schema())
