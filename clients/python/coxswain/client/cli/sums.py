"""What commands share that show sums by keys: usage, tool usage."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from coxswain.client.cli.session import Session, one_line
from coxswain.client.paging import pages

LABEL = "label"
SinceOption = Annotated[str, typer.Option(help="Hours or days back, for example 24h or 7d; empty: from the start.")]
SubjectOption = Annotated[str, typer.Option("--subject", help="Only calls by this subject, for example dev|alice.")]
CrewOption = Annotated[str, typer.Option("--crew", help="Only calls of this crew, by its name.")]
ExecutionOption = Annotated[str, typer.Option("--execution", help="Only calls of this execution, by its id.")]
LabelsOption = Annotated[
    list[str] | None, typer.Option("--label", help="Only calls with this label, as KEY=VALUE; repeatable.")
]
RowsOption = Annotated[int, typer.Option("--limit", min=1, help="How many rows at most.")]


def choices_of(enum: Any) -> dict[str, Any]:
    """The values of an enum that can be chosen, by their names as people type them."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return {name.removeprefix(prefix).lower(): value for name, value in enum.items() if value}


def group_by(request: Any, by: list[str], grouping: Any) -> list[str]:
    """Fill in what a request sums by, and return the names of the columns. The enum has a value for LABEL too."""
    groupings, names = choices_of(grouping), []
    for what in by:
        name, _, key = what.partition("=")
        if name == LABEL and key:
            if request.label_key:
                raise typer.BadParameter("only one label can be summed by", param_hint="--by")
            request.label_key = key
        elif name == LABEL or what not in groupings:
            known = ", ".join(each for each in groupings if each != LABEL)
            raise typer.BadParameter(f"give one of {known} and label=KEY", param_hint="--by")
        request.group_by.append(groupings[name])
        names.append(name)
    return names


def label_pairs(labels: list[str] | None) -> dict[str, str]:
    """Return labels that were given as KEY=VALUE."""
    found = {}
    for label in labels or ():
        key, equals, value = label.partition("=")
        if not equals:
            raise typer.BadParameter(f'"{label}" is not KEY=VALUE', param_hint="--label")
        found[key] = value
    return found


def first_rows(session: Session, query: Any, request: Any, limit: int) -> list[Any]:
    """Return the first rows of a query, and say if there are more."""
    rows = list(pages(query, request, "rows", limit + 1))
    if len(rows) > limit:
        session.say("there are more: raise --limit", "yellow")
    return rows[:limit]


def keys_of(row: Any, names: list[str]) -> Iterator[str]:
    """Return what a row's calls agree in, as cells of a table."""
    fields = {"execution": "execution_id", LABEL: "label_value"}
    return (one_line(str(getattr(row, fields.get(name, name)))) for name in names)


def dollars(cost: float) -> str:
    """Return an amount of money, small ones with more digits."""
    return f"${cost:,.2f}" if cost >= 1 or not cost else f"${cost:.4f}"
