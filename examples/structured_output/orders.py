"""Reads an order out of a mail, as an object of this program: one class is the schema and the type.

Use: python orders.py < mail.txt
"""

import sys
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel, Field

from coxswain.client import Client, load_crew


class Line(BaseModel):
    """An article of an order."""

    article: str
    quantity: int = Field(ge=1)


class Order(BaseModel):
    """What the crew returns. Descriptions are read by the model too."""

    customer: str = Field(description="The name that the mail is signed with")
    lines: list[Line] = Field(min_length=1)
    urgent: bool


def read_order(mail: str) -> Order:
    """Return the order that a mail places."""
    crew = load_crew(Path(__file__).with_name("crew.yaml"))
    crew.tasks[0].output_schema.update(Order.model_json_schema())
    with Client() as client:
        # Raises ExecutionNotSucceeded where the model gives no order that follows the schema, after a second attempt.
        execution = client.run(crew, {"mail": mail})
    return Order.model_validate(MessageToDict(execution.result.structured))


if __name__ == "__main__":
    print(read_order(sys.stdin.read()).model_dump_json(indent=2))
