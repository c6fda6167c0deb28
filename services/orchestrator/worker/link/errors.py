"""The one error that crosses the link."""

from coxswain.orchestrator.worker import link_pb2
from services.common.storable import storable

WAITS_FOR_PERSON = "WAITS_FOR_PERSON"
"""The reason of an attempt that ends because a person has to be asked about a call; it is no failure."""


class TaskError(Exception):
    """A request of the other end, or the task it was made for, failed.

    `reason` is an ErrorReason without its prefix. `fatal` says that trying again within the task is pointless: the task
    has to end.
    """

    def __init__(self, reason: str, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fatal = fatal


def error_to_proto(error: TaskError) -> link_pb2.Error:
    """Return the error as it crosses the link."""
    return link_pb2.Error(reason=error.reason, message=storable(error.message), fatal=error.fatal)


def error_from_proto(message: link_pb2.Error) -> TaskError:
    """Return the error the other end replied with."""
    return TaskError(message.reason, message.message, fatal=message.fatal)
