"""The position of an export, kept across lost connections."""

from coxswain.client.watching import Reconnection
from coxswain.memory.v1.memory_pb2 import ExportRecordsRequest, ExportRecordsResponse


class ExportCursor(Reconnection):
    """Remembers how far an export has come."""

    def __init__(self, request: ExportRecordsRequest, *, max_outage: float, renewable: bool) -> None:
        """Start where the request does."""
        super().__init__(max_outage=max_outage, renewable=renewable)
        self._request = ExportRecordsRequest()
        self._request.CopyFrom(request)
        self._begun = False

    def request(self) -> ExportRecordsRequest:
        """The request that continues after the last record."""
        self.connects()
        return self._request

    def accept(self, response: ExportRecordsResponse) -> bool:
        """Whether the response is to be handed on: the first one of a connection that continues holds nothing new."""
        self.works()
        if response.next_page_token:
            self._request.page_token = response.next_page_token
        repeated = self._begun and response.HasField("origin") and not response.records
        self._begun = True
        return not repeated
