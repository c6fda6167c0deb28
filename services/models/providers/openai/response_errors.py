"""Why a response is no answer, before it is known whose it is."""

from services.models.providers.fault_reading import Fault


class BadResponse(Exception):
    """A response that cannot be read. The text is ours and quotes nothing of it."""


class AnswerFailed(Exception):
    """The upstream says that it failed, in the place of an answer or within one."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault
