"""Commands about what model calls have used, and the limits on it: usage, budget."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.session import JsonOption, Session, add_row, confirm, session_of
from coxswain.client.cli.spans import moment_before_now
from coxswain.client.cli.sums import (
    CrewOption,
    ExecutionOption,
    LabelsOption,
    RowsOption,
    SinceOption,
    SubjectOption,
    dollars,
    first_rows,
    group_by,
    keys_of,
    label_pairs,
)
from coxswain.client.later import usage_pb2
from coxswain.client.paging import pages

budget_app = typer.Typer(no_args_is_help=True, help="Limits on the model calls of the group.")

_LIMITS = {
    "monthly_cost_limit": "$ a month",
    "daily_cost_limit": "$ a day",
    "cost_per_minute": "$ a minute",
    "tokens_per_month": "tokens a month",
    "tokens_per_day": "tokens a day",
    "tokens_per_minute": "tokens a minute",
    "calls_per_minute": "calls a minute",
}

ModelOption = Annotated[str, typer.Option("--model", help="Only calls of this model.")]


def usage(
    context: typer.Context,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", help="model, execution, crew, subject, day or label=KEY; repeatable. Default: model."),
    ] = None,
    since: SinceOption = "",
    model: ModelOption = "",
    subject: SubjectOption = "",
    crew: CrewOption = "",
    execution: ExecutionOption = "",
    labels: LabelsOption = None,
    limit: RowsOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Show the calls, tokens and cost of the group's model calls. Those of tools are in `coxswain tool usage`.

    Example: `coxswain usage --by crew --by day --since 7d`
    """
    session = session_of(context, as_json)
    request = usage_pb2.QueryUsageRequest(
        model=model, subject=subject, crew=crew, execution_id=execution, labels=label_pairs(labels), page_size=1000
    )
    names = group_by(request, by or ["model"], usage_pb2.UsageGrouping)
    if since:
        request.start_time.CopyFrom(moment_before_now(since))
    with session.client() as client:
        rows = first_rows(session, client.usage.QueryUsage, request, limit)
    if session.json:
        return session.print_json(rows)
    made = Listing(*names, ">calls", ">input", ">cached", ">output", ">reasoning", ">cost")
    for row in rows:
        add_row(
            made,
            *keys_of(row, names),
            f"{row.calls:,}",
            f"{row.input_tokens:,}",
            f"{row.cached_input_tokens:,}",
            f"{row.output_tokens:,}",
            f"{row.reasoning_tokens:,}",
            dollars(row.cost),
        )
    session.out.print(made if rows else "nothing used")
    return None


@budget_app.command("show")
def show_budget(
    context: typer.Context, model: ModelOption = "", subject: SubjectOption = "", as_json: JsonOption = False
) -> None:
    """Show limits, the ceilings on them (`limits show` says who set those of the group), and what has been used.

    Example: `coxswain budget show --model openai/gpt-4o`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.usage.GetBudget(
            usage_pb2.GetBudgetRequest(scope=usage_pb2.BudgetScope(model=model, subject=subject))
        )
    if session.json:
        return session.print_json(found)
    used = {
        "monthly_cost_limit": dollars(found.monthly_cost),
        "daily_cost_limit": dollars(found.daily_cost),
        "tokens_per_month": f"{found.tokens_this_month:,}",
        "tokens_per_day": f"{found.tokens_today:,}",
    }
    made = Listing("limit", ">allowed", ">ceiling", ">used")
    for name, words in _LIMITS.items():
        add_row(made, words, _amount(found.budget, name), _amount(found.ceiling, name), used.get(name, ""))
    session.out.print(made)
    return None


@budget_app.command("list")
def list_budgets(context: typer.Context, as_json: JsonOption = False) -> None:
    """List all limits of the group and the ceilings on them.

    Example: `coxswain budget list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(pages(client.usage.ListBudgets, usage_pb2.ListBudgetsRequest(page_size=1000), "budgets"))
    if session.json:
        return session.print_json(found)
    made = Listing("model", "subject", "kind", "limits")
    for entry in found:
        for who, budget in (("own", entry.budget), ("ceiling", entry.ceiling)):
            if limits := _limits_in_words(budget):
                add_row(made, entry.scope.model or "all", entry.scope.subject or "all", who, limits)
    session.out.print(made if found else "no limits")
    return None


@budget_app.command("set")
def set_budget(
    context: typer.Context,
    model: ModelOption = "",
    subject: SubjectOption = "",
    monthly_cost: Annotated[float | None, typer.Option(min=0, help="US dollars in a month; 0 means no limit.")] = None,
    daily_cost: Annotated[float | None, typer.Option(min=0, help="US dollars in a day; 0 means no limit.")] = None,
    minute_cost: Annotated[float | None, typer.Option(min=0, help="US dollars in a minute; 0 means no limit.")] = None,
    monthly_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens in a month; 0 means no limit.")] = None,
    daily_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens in a day; 0 means no limit.")] = None,
    minute_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens in a minute; 0 means no limit.")] = None,
    minute_calls: Annotated[int | None, typer.Option(min=0, help="Calls in a minute; 0 means no limit.")] = None,
    alert_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of a limit at which an alert is stored, as in 0.8 for 80 %; 0 means never."
        ),
    ] = 0.0,
    ceiling_of: Annotated[
        str, typer.Option(metavar="GROUP", help="As the operator: set the ceiling of this group, by its id, instead.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Replace the limits of the group, or those of a model, of a subject, or of both; what is left out has no limit.

    Example: `coxswain budget set --monthly-cost 200 --alert-share 0.8`
    """
    limits = (monthly_cost, daily_cost, minute_cost, monthly_tokens, daily_tokens, minute_tokens, minute_calls)
    # What is left out has no limit: without any, the command would remove all of them.
    if all(limit is None for limit in limits):
        raise typer.BadParameter(
            "give at least one limit, such as --monthly-cost; `coxswain budget delete` removes them"
        )
    session = session_of(context, as_json)
    scope = usage_pb2.BudgetScope(model=model, subject=subject)
    budget = usage_pb2.Budget(
        monthly_cost_limit=monthly_cost or 0,
        daily_cost_limit=daily_cost or 0,
        cost_per_minute=minute_cost or 0,
        tokens_per_month=monthly_tokens or 0,
        tokens_per_day=daily_tokens or 0,
        tokens_per_minute=minute_tokens or 0,
        calls_per_minute=minute_calls or 0,
        alert_share=alert_share,
    )
    with session.client() as client:
        if ceiling_of:
            request = usage_pb2.SetBudgetCeilingRequest(group_id=ceiling_of, ceiling=budget, scope=scope)
            budget = client.usage.SetBudgetCeiling(request).ceiling
        else:
            budget = client.usage.SetBudget(usage_pb2.SetBudgetRequest(budget=budget, scope=scope)).budget
    return _done(session, budget, _limits_in_words(budget) or "no limits")


@budget_app.command("delete")
def delete_budget(
    context: typer.Context,
    model: ModelOption = "",
    subject: SubjectOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the limits of the group, or those of a model, of a subject, or of both. The operator's stay. Asks first.

    Example: `coxswain budget delete --model openai/gpt-4o`
    """
    session = session_of(context, as_json)
    of = " and ".join(filter(None, (model, subject))) or "the whole group"
    confirm(session, f"the limits of {of}", "remove", yes=yes)
    with session.client() as client:
        client.usage.DeleteBudget(
            usage_pb2.DeleteBudgetRequest(scope=usage_pb2.BudgetScope(model=model, subject=subject))
        )
    return _done(session, {"deleted": True}, "removed")


@budget_app.command("alerts")
def list_alerts(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List when shares of limits were used, newest first.

    Example: `coxswain budget alerts`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        request = usage_pb2.ListBudgetAlertsRequest(page_size=min(limit, 1000))
        found = list(pages(client.usage.ListBudgetAlerts, request, "alerts", limit))
    if session.json:
        return session.print_json(found)
    made = Listing("time", "model", "subject", "limit", ">used", ">of")
    for alert in found:
        form = dollars if "cost" in alert.limit else "{:,.0f}".format
        add_row(
            made,
            When(alert.create_time),
            alert.scope.model or "all",
            alert.scope.subject or "all",
            _LIMITS.get(alert.limit, alert.limit),
            form(alert.used),
            form(alert.allowed),
        )
    session.out.print(made if found else "no alerts")
    return None


def _done(session: Session, value: Any, words: str) -> None:
    if session.json:
        session.print_json(value)
    else:
        session.show(words)


def _amount(budget: usage_pb2.Budget, name: str) -> str:
    value = getattr(budget, name)
    if not value:
        return ""
    return dollars(value) if "cost" in name else f"{value:,}"


def _limits_in_words(budget: usage_pb2.Budget) -> str:
    words = [
        f"{_amount(budget, name)} {unit.removeprefix('$ ')}" for name, unit in _LIMITS.items() if getattr(budget, name)
    ]
    if words and budget.alert_share:
        words.append(f"alert at {budget.alert_share:.0%}")
    return ", ".join(words)
