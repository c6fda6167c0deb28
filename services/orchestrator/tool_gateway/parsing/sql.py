"""Says of a SQL statement of Databricks whether it only reads.

What a statement may do at all is decided by the grants of whoever runs it; this keeps a model from writing by accident.
"""

import logging
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

MAX_STATEMENT_CHARACTERS = 64_000

_DESCRIBING = ("SHOW", "DESCRIBE", "DESC", "EXPLAIN")
_FIRST_WORDS = ("SELECT", "WITH", *_DESCRIBING)
_WRITING = (
    exp.DML, exp.DDL, exp.Command, exp.Into, exp.Drop, exp.Alter, exp.MultitableInserts, exp.Set, exp.Use,
    exp.TruncateTable,
)  # fmt: skip
_ACTING = {
    "http_request": "it calls other systems",
    "remote_query": "it runs statements of other systems",
    "reflect": "it calls code of the server",
    "java_method": "it calls code of the server",
    "try_reflect": "it calls code of the server",
    "secret": "it shows secrets",
    "try_secret": "it shows secrets",
    "list_secrets": "it shows secrets",
    "identifier": "what it names is not known here",
    "vector_search": "use the tool databricks_vector_search",
}
"""Functions that no reading statement may call, and why."""

# Statements stay out of logs; the parser says there what it does not know.
logging.getLogger("sqlglot").disabled = True


def read_statement(statement: str) -> dict[str, Any]:
    """Return an empty `refused` for a statement that only reads, or why it is not one.

    Raises:
        RecursionError: it is nested too deep.
    """
    return {"refused": _refusal(statement)}


def _refusal(statement: str) -> str:
    if len(statement) > MAX_STATEMENT_CHARACTERS:
        return f"the statement is longer than {MAX_STATEMENT_CHARACTERS} characters"
    try:
        tokens = sqlglot.tokenize(statement, read="databricks")
        words = [token.text.upper() for token in tokens if token.text != ";" or token.token_type.name != "SEMICOLON"]
        semicolons = [place for place, token in enumerate(tokens) if token.token_type.name == "SEMICOLON"]
        first = next((word for word in words if word != "("), "")
        if first not in _FIRST_WORDS:
            return f"only reading is allowed: a statement has to begin with {', '.join(_FIRST_WORDS)}"
        if semicolons and semicolons[0] < len(words):
            return "it has to be one statement, without a semicolon inside"
        if first in _DESCRIBING:
            return ""
        parsed = [one for one in sqlglot.parse(statement, read="databricks", error_level=ErrorLevel.RAISE) if one]
    except SqlglotError as error:
        return f"the statement cannot be parsed as SQL of Databricks: {_short(str(error))}"
    if len(parsed) != 1 or not isinstance(parsed[0], exp.Query):
        return "only reading is allowed: this statement is no query"
    return next((why for node in parsed[0].walk() if (why := _refused_node(node))), "")


def _refused_node(node: exp.Expr) -> str:
    if isinstance(node, _WRITING):
        return "only reading is allowed: the statement would change something"
    for name in _function_names(node):
        if why := _ACTING.get(name):
            return f"the function {name} is not allowed where only reading is: {why}"
    return ""


def _function_names(node: exp.Expr) -> list[str]:
    if isinstance(node, exp.Anonymous):
        return [node.name.lower()]
    return [name.lower() for name in type(node).sql_names()] if isinstance(node, exp.Func) else []


def _short(text: str) -> str:
    # Control sequences underline the place.
    plain = text.replace("\x1b[4m", "").replace("\x1b[0m", "").splitlines()
    return plain[0][:200] if plain else ""
