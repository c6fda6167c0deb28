"""The position of a download, kept across lost connections."""

import hashlib

from coxswain.client.watching import Reconnection
from coxswain.orchestrator.v1.artifact_pb2 import Artifact, DownloadArtifactRequest, DownloadArtifactResponse


class DownloadCursor(Reconnection):
    """Remembers how much of a file has come, and what it is to be."""

    def __init__(self, execution_id: str, name: str, revision: int = 0, *, max_outage: float, renewable: bool) -> None:
        """Start at the first byte; ``revision`` 0 is the newest one."""
        super().__init__(max_outage=max_outage, renewable=renewable)
        self.artifact: Artifact | None = None
        """The file, once the first response has come."""
        self._request = DownloadArtifactRequest(execution_id=execution_id, name=name, revision=revision)
        self._digest = hashlib.sha256()

    def request(self) -> DownloadArtifactRequest:
        """The request that continues after the last byte."""
        self.connects()
        return self._request

    def accept(self, response: DownloadArtifactResponse) -> bytes:
        """The bytes of a response."""
        self.works()
        if response.HasField("artifact"):
            self.artifact = response.artifact
            # Another content would not go with the bytes that have come.
            self._request.revision = response.artifact.revision
        self._request.offset += len(response.content)
        self._digest.update(response.content)
        return response.content

    def pause_after_end(self) -> float | None:
        """Seconds to wait after a stream that ended by itself; None when the file has come whole.

        Raises ValueError when its bytes are not those that the server has stored.
        """
        if self.artifact is None or self._request.offset < self.artifact.size_bytes:
            return self.pause()
        if self._digest.hexdigest() != self.artifact.sha256:
            raise ValueError(f"{self.artifact.name}: the bytes that came are not those that the server has stored")
        return None
