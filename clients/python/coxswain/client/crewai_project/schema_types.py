"""Types of pydantic classes: what the plain ones are in a JSON schema, and what their code looks like."""

import ast
from typing import Any

from coxswain.client.crewai_project.expressions import called
from coxswain.client.crewai_project.python_source import Module

Schema = dict[str, Any]

PLAIN: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "None": {"type": "null"},
    "Any": {},
    "object": {},
    "list": {"type": "array"},
    "dict": {"type": "object"},
    "set": {"type": "array", "uniqueItems": True},
    "tuple": {"type": "array"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "timedelta": {"type": "string", "format": "duration"},
    "UUID": {"type": "string", "format": "uuid"},
    "UUID4": {"type": "string", "format": "uuid4"},
    "Decimal": {"anyOf": [{"type": "number"}, {"type": "string"}]},
    "Path": {"type": "string", "format": "path"},
    "EmailStr": {"type": "string", "format": "email"},
    "HttpUrl": {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083},
    "AnyUrl": {"type": "string", "format": "uri", "minLength": 1},
    "AnyHttpUrl": {"type": "string", "format": "uri", "minLength": 1},
    "StrictStr": {"type": "string"},
    "StrictInt": {"type": "integer"},
    "StrictFloat": {"type": "number"},
    "StrictBool": {"type": "boolean"},
    "PositiveInt": {"type": "integer", "exclusiveMinimum": 0},
    "NonNegativeInt": {"type": "integer", "minimum": 0},
    "NegativeInt": {"type": "integer", "exclusiveMaximum": 0},
    "PositiveFloat": {"type": "number", "exclusiveMinimum": 0},
    "NonNegativeFloat": {"type": "number", "minimum": 0},
}
LISTS = {"list", "List", "Sequence", "Iterable", "MutableSequence", "Collection"}
SETS = {"set", "Set", "frozenset", "FrozenSet", "AbstractSet"}
MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}
SAME = {"Dict": "dict", "List": "list", "Set": "set", "FrozenSet": "set", "frozenset": "set", "Tuple": "tuple"}
ENUMS = {"Enum", "StrEnum", "IntEnum"}
# What Field(...) says -> the JSON schema of text, of a list, and of a number.
LIMITS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
    "regex": "pattern",
}
LENGTHS = {"min_length": "min", "max_length": "max", "min_items": "min", "max_items": "max"}
WITHOUT_EFFECT = {"default", "default_factory", "alias", "validation_alias", "serialization_alias", "repr", "exclude"}


def root_type(module: Module, node: ast.ClassDef) -> ast.expr | None:
    """What the one value of a ``RootModel`` is."""
    if not any(called(of_generic(base), module) == "RootModel" for base in node.bases):
        return None
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id == "root":
            return item.annotation
    return next((base.slice for base in node.bases if isinstance(base, ast.Subscript)), None)


def of_generic(expression: ast.expr) -> ast.expr:
    """``List`` for ``List[str]``; anything else as it is."""
    return expression.value if isinstance(expression, ast.Subscript) else expression


def is_enum(module: Module, node: ast.ClassDef) -> bool:
    """Whether a class is an enum."""
    return any(called(base, module) in ENUMS for base in node.bases)


def is_class_variable(annotation: ast.expr, module: Module) -> bool:
    """Whether an annotation says that the name is no field."""
    return called(of_generic(annotation), module) == "ClassVar"


def annotated_fields(annotation: ast.expr, module: Module) -> list[ast.expr]:
    """The calls of ``Field`` in ``Annotated[...]``."""
    if not (isinstance(annotation, ast.Subscript) and called(annotation.value, module) == "Annotated"):
        return []
    arguments = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else []
    return [one for one in arguments[1:] if isinstance(one, ast.Call) and called(one, module) == "Field"]
