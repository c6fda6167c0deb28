"""Makes JSON schemas of the classes of a project."""

import ast
import copy
from dataclasses import dataclass
from typing import Any

from coxswain.client.crewai_project.expressions import Bound, Expressions, Scope, Unreadable, called, dotted
from coxswain.client.crewai_project.python_source import Module, Sources
from coxswain.client.crewai_project.schema_types import (
    LENGTHS,
    LIMITS,
    LISTS,
    MAPPINGS,
    PLAIN,
    SAME,
    SETS,
    WITHOUT_EFFECT,
    Schema,
    annotated_fields,
    is_class_variable,
    is_enum,
    of_generic,
    root_type,
)

_MAX_DEPTH = 32
_MAX_STEPS = 20_000


@dataclass(frozen=True)
class _Field:
    schema: Schema
    required: bool


def missing(name: str, module: Module) -> str:
    """Why a class that a module names was not found."""
    source = module.imports.get(name.partition(".")[0])
    if source is None:
        return f"the class {name} is not in this file"
    where = "." * source.level + (source.module or source.name)
    return f"the class {name} comes from {where}, which is not in the project or cannot be read"


class SchemaMaker:
    """Makes the schema of one class, with those of the classes that it names."""

    def __init__(self, sources: Sources, expressions: Expressions) -> None:
        self._sources = sources
        self._expressions = expressions
        self._definitions: dict[str, Schema] = {}
        self._names: dict[tuple[Module, str], str] = {}
        self.unread: list[tuple[str, int, str]] = []
        """As in ``OutputSchema``."""
        self._steps = 0

    def root(self, module: Module, node: ast.ClassDef) -> Schema:
        """The schema of a class made from BaseModel. Raises Unreadable."""
        if root_type(module, node) is not None:
            raise Unreadable(f"{node.name} is a RootModel, and results are objects (make its value a field)")
        name = self._reserve(module, node)
        own = self._model(module, node, 0)
        self._definitions[name] = own
        referred = f"#/$defs/{name}"
        if not _refers(own, referred) and not any(
            _refers(one, referred) for key, one in self._definitions.items() if key != name
        ):
            del self._definitions[name]
        return {**own, "$defs": self._definitions} if self._definitions else own

    def _step(self, depth: int) -> None:
        self._steps += 1
        if depth > _MAX_DEPTH or self._steps > _MAX_STEPS:
            raise Unreadable("the class is nested too deeply")

    def is_model(self, module: Module, node: ast.ClassDef, depth: int = 0) -> bool:
        """Whether a class comes from BaseModel, in however many steps."""
        self._step(depth)
        for base in node.bases:
            base = of_generic(base)
            if called(base, module) in {"BaseModel", "RootModel"}:
                return True
            found = self._class(module, dotted(base))
            if found and self.is_model(*found, depth + 1):
                return True
        return False

    def _class(self, module: Module, name: str) -> tuple[Module, ast.ClassDef] | None:
        found = self._sources.find(module, name) if name else None
        return (found[0], found[0].classes[found[1]]) if found and found[1] in found[0].classes else None

    def _reserve(self, module: Module, node: ast.ClassDef) -> str:
        key = (module, node.name)
        if key not in self._names:
            taken = set(self._names.values())
            name, count = node.name, 1
            while name in taken:
                count += 1
                name = f"{node.name}{count}"
            self._names[key] = name
        return self._names[key]

    def _reference(self, module: Module, node: ast.ClassDef, depth: int) -> Schema:
        new = (module, node.name) not in self._names
        name = self._reserve(module, node)
        if new:
            self._definitions[name] = {}
            if (inner := root_type(module, node)) is not None:
                self._definitions[name] = self._type(inner, Scope(module), depth + 1)
            elif self.is_model(module, node):
                self._definitions[name] = self._model(module, node, depth)
            else:
                self._definitions[name] = self._other(module, node)
        return {"$ref": f"#/$defs/{name}"}

    def _model(self, module: Module, node: ast.ClassDef, depth: int) -> Schema:
        fields = self._fields(module, node, depth)
        schema: Schema = {
            "type": "object",
            "title": node.name,
            "properties": {name: one.schema for name, one in fields.items()},
        }
        if text := ast.get_docstring(node):
            schema["description"] = text
        if required := [name for name, one in fields.items() if one.required]:
            schema["required"] = required
        if self._forbids_more(module, node):
            schema["additionalProperties"] = False
        return schema

    def _forbids_more(self, module: Module, node: ast.ClassDef) -> bool:
        for item in node.body:
            if isinstance(item, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "model_config" for t in item.targets
            ):
                return any(isinstance(one, ast.Constant) and one.value == "forbid" for one in ast.walk(item.value))
        return any(
            self._forbids_more(*found)
            for base in node.bases
            if (found := self._class(module, dotted(base))) and found[1] is not node
        )

    def _fields(self, module: Module, node: ast.ClassDef, depth: int) -> dict[str, _Field]:
        self._step(depth)
        fields: dict[str, _Field] = {}
        for base in reversed(node.bases):
            fields.update(self._inherited(module, node, base, depth))
        scope = Scope(module)
        for item in node.body:
            match item:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                    if name.startswith("_") or name == "model_config" or is_class_variable(annotation, module):
                        continue
                    key, made = self._field(name, annotation, value, scope, depth)
                    fields[key] = made
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in fields:
                    # An inherited field gets another default.
                    fields[name] = _Field(self._with_default(fields[name].schema, Bound(value, scope)), required=False)
                case ast.FunctionDef(decorator_list=decorators) if any(
                    called(one, module) in {"field_validator", "validator", "model_validator", "root_validator"}
                    for one in decorators
                ):
                    description = f"the check {node.name}.{item.name} is Python code: say it in the task's guardrail"
                    self.unread.append((description, item.lineno, module.file))
        return fields

    def _inherited(self, module: Module, node: ast.ClassDef, base: ast.expr, depth: int) -> dict[str, _Field]:
        name = called(base, module)
        if name in {"BaseModel", "ABC", "object", "Protocol"}:
            return {}
        if isinstance(base, ast.Subscript):
            raise Unreadable(f"the class {node.name} is generic")
        found = self._class(module, dotted(base))
        if found is None:
            raise Unreadable(f"{node.name} comes from {name or 'another class'}, which is not in the project")
        return self._fields(*found, depth + 1)

    def _field(
        self, name: str, annotation: ast.expr, value: ast.expr | None, scope: Scope, depth: int
    ) -> tuple[str, _Field]:
        schema = self._type(annotation, scope, depth + 1)
        required = value is None
        for call in [*annotated_fields(annotation, scope.module), value]:
            if call is None:
                continue
            if not (isinstance(call, ast.Call) and called(call, scope.module) == "Field"):
                schema = self._with_default(schema, Bound(call, scope))
                continue
            said = {one.arg: one.value for one in call.keywords if one.arg}
            if call.args:
                said["default"] = call.args[0]
            if call is value:
                required = not {"default", "default_factory"} & set(said)
            if isinstance(said.get("default"), ast.Constant) and said["default"].value is ...:  # type: ignore[attr-defined]
                required = True
                del said["default"]
            schema = self._limited(name, schema, said, scope)
            if "default" in said:
                schema = self._with_default(schema, Bound(said["default"], scope))
            elif isinstance(factory := said.get("default_factory"), ast.Name) and factory.id in {"list", "dict"}:
                # pydantic's own schemas do not say it, but a model that knows it need not invent anything.
                schema = {**schema, "default": [] if factory.id == "list" else {}}
            alias = said.get("validation_alias") or said.get("alias")
            if isinstance(alias, ast.Constant) and isinstance(alias.value, str):
                name = alias.value
        return name, _Field(schema, required)

    def _limited(self, name: str, schema: Schema, said: dict[str, ast.expr], scope: Scope) -> Schema:
        schema = copy.deepcopy(schema)
        for key, expression in said.items():
            if key in WITHOUT_EFFECT:
                continue
            try:
                value = self._expressions.value(Bound(expression, scope)).plain()
            except Unreadable as error:
                self.unread.append((f"{key} of {name}: {error}", expression.lineno, scope.module.file))
                continue
            if key in {"description", "title", "examples"}:
                schema[key] = value
            elif key == "json_schema_extra" and isinstance(value, dict):
                schema.update(value)
            else:
                self._limit(name, schema, key, value, expression.lineno, scope.module.file)
        return schema

    def _limit(self, name: str, schema: Schema, key: str, value: object, line: int, file: str) -> None:
        target = next((one for one in schema.get("anyOf", []) if one.get("type") != "null"), schema)
        if key in LENGTHS:
            kinds = {"array": "Items", "object": "Properties"}
            target[LENGTHS[key] + kinds.get(target.get("type", ""), "Length")] = value
        elif key in LIMITS:
            target[LIMITS[key]] = value
        else:
            self.unread.append((f"{key} of {name} is not part of a JSON schema", line, file))

    def _with_default(self, schema: Schema, bound: Bound) -> Schema:
        try:
            return {**schema, "default": self._expressions.value(bound).plain()}
        except Unreadable:
            # The default is a call or a member of an enum: the property may be left out all the same.
            member = self._member(bound)
            return schema if member is None else {**schema, "default": member}

    def _member(self, bound: Bound) -> object:
        owner, _, name = dotted(bound.expression).rpartition(".")
        found = self._class(bound.scope.module, owner)
        return self._members(*found).get(name) if found and is_enum(*found) else None

    def _type(self, annotation: ast.expr, scope: Scope, depth: int) -> Schema:
        self._step(depth)
        match annotation:
            case ast.Constant(value=None):
                return {"type": "null"}
            case ast.Constant(value=str() as text):
                try:
                    return self._type(ast.parse(text, mode="eval").body, scope, depth + 1)
                except (SyntaxError, ValueError, RecursionError, MemoryError):
                    raise Unreadable(f"the type {text[:60]!r} is not readable") from None
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._union([left, right], scope, depth)
            case ast.Subscript(value=value, slice=inner):
                arguments = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
                return self._generic(called(value, scope.module), arguments, scope, depth)
            case ast.Name() | ast.Attribute():
                return self._named(annotation, scope, depth)
            case ast.Call() if called(annotation, scope.module) in {"conint", "confloat", "constr", "conlist"}:
                return self._constrained(annotation, scope, depth)
        raise Unreadable(f"the type in line {getattr(annotation, 'lineno', 0)} is not a plain one")

    def _constrained(self, call: ast.Call, scope: Scope, depth: int) -> Schema:
        kind = called(call, scope.module).removeprefix("con")
        said = {one.arg: one.value for one in call.keywords if one.arg}
        schema = dict(PLAIN[kind])
        if kind == "list" and (item := call.args[0] if call.args else said.pop("item_type", None)) is not None:
            schema["items"] = self._type(item, scope, depth + 1)
        return self._limited(kind, schema, said, scope)

    def _union(self, parts: list[ast.expr], scope: Scope, depth: int) -> Schema:
        choices: list[Schema] = []
        for part in parts:
            made = self._type(part, scope, depth + 1)
            for choice in made["anyOf"] if set(made) == {"anyOf"} else [made]:
                if choice not in choices:
                    choices.append(choice)
        return choices[0] if len(choices) == 1 else {"anyOf": choices}

    def _generic(self, name: str, arguments: list[ast.expr], scope: Scope, depth: int) -> Schema:
        def inner(index: int = 0) -> Schema:
            return self._type(arguments[index], scope, depth + 1)

        if name in {"Annotated", "Required", "NotRequired", "Final"}:
            return inner()
        if name == "Optional":
            return self._union([arguments[0], ast.Constant(value=None)], scope, depth)
        if name == "Union":
            return self._union(arguments, scope, depth)
        if name == "Literal":
            return self._literal(arguments, scope)
        if name in LISTS:
            return {"type": "array", "items": inner()}
        if name in SETS:
            return {"type": "array", "items": inner(), "uniqueItems": True}
        if name in {"tuple", "Tuple"}:
            if len(arguments) == 2 and isinstance(arguments[1], ast.Constant) and arguments[1].value is ...:
                return {"type": "array", "items": inner()}
            parts = [inner(index) for index in range(len(arguments))]
            return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
        if name in MAPPINGS and len(arguments) == 2:
            values = inner(1)
            return {"type": "object", "additionalProperties": values or True}
        raise Unreadable(f"the type {name or 'here'}[...] has no JSON schema here")

    def _literal(self, arguments: list[ast.expr], scope: Scope) -> Schema:
        values = []
        for argument in arguments:
            try:
                values.append(self._expressions.value(Bound(argument, scope)).plain())
            except Unreadable:
                member = self._member(Bound(argument, scope))
                if member is None:
                    raise
                values.append(member)
        return _choice(values)

    def _named(self, annotation: ast.expr, scope: Scope, depth: int) -> Schema:
        name = dotted(annotation)
        found = self._sources.find(scope.module, name) if name else None
        if found is None:
            own = called(annotation, scope.module)
            own = SAME.get(own, own)
            if own in PLAIN:
                return PLAIN[own]
            raise Unreadable(missing(name, scope.module) if name else "a type is not a plain one")
        module, name = found
        if name in module.classes:
            return self._reference(module, module.classes[name], depth)
        alias = module.names.get(name)
        if alias is None:
            raise Unreadable(f"the type {name} is made at run time")
        return self._type(alias, Scope(module), depth + 1)

    def _other(self, module: Module, node: ast.ClassDef) -> Schema:
        """The schema of a class that is no model: an enum, or a plain record."""
        if is_enum(module, node):
            schema = _choice(list(self._members(module, node).values()))
            schema["title"] = node.name
            if text := ast.get_docstring(node):
                schema["description"] = text
            return schema
        record = any(called(one, module) == "dataclass" for one in node.decorator_list)
        if record or any(called(base, module) == "TypedDict" for base in node.bases):
            fields = {}
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    _key, fields[item.target.id] = self._field(
                        item.target.id, item.annotation, item.value, Scope(module), 1
                    )
            required = [name for name, one in fields.items() if one.required]
            properties = {name: one.schema for name, one in fields.items()}
            return {"type": "object", "title": node.name, "properties": properties, "required": required}
        raise Unreadable(f"the class {node.name} is neither made from BaseModel nor an enum")

    def _members(self, module: Module, node: ast.ClassDef) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for item in node.body:
            if not (isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name)):
                continue
            name = item.targets[0].id
            if name.startswith("_"):
                continue
            if called(item.value, module) == "auto":
                text = any(called(base, module) == "StrEnum" for base in node.bases)
                members[name] = name.lower() if text else len(members) + 1
            else:
                members[name] = self._expressions.value(Bound(item.value, Scope(module))).plain()
        if not members:
            raise Unreadable(f"the enum {node.name} has no members")
        return members


def _choice(values: list[Any]) -> Schema:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    types = {kinds.get(type(value), "") for value in values}
    schema: Schema = {"const": values[0]} if len(values) == 1 else {"enum": values}
    if len(types) == 1 and "" not in types:
        schema["type"] = types.pop()
    return schema


def _refers(schema: object, reference: str) -> bool:
    if isinstance(schema, dict):
        return schema.get("$ref") == reference or any(_refers(one, reference) for one in schema.values())
    return isinstance(schema, list) and any(_refers(one, reference) for one in schema)
