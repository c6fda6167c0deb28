"""Questions and their answers as one group of commands: approvals list, answer."""

import typer

from coxswain.client.cli.answers import answer
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.questions import questions

app = typer.Typer(cls=ListingGroup, help="List and answer what executions ask people.")
app.command(
    "list",
    help="List what executions of the group ask people, as `coxswain questions`.\n\nExample: `coxswain approvals list`",
)(questions)
app.command(
    help="Answer a question, as `coxswain answer`.\n\nExample: "
    "`coxswain approvals answer 01a20694-1f86-7c54-8594-1ba930202397 --approve`",
)(answer)
