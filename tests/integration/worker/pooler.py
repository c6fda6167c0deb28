"""Something between a client and PostgreSQL that does as a pooler does: it tells clients process ids of its own."""

import contextlib
import socket
import struct
import threading
from typing import Self

from sqlalchemy import make_url


class Pooler:
    """Passes everything on, but the process id that a client is told at the start."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        self._server = f"{url.query['host']}/.s.PGSQL.{url.port or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = str(
            url.set(host="127.0.0.1", port=self._listener.getsockname()[1]).set(
                query={"sslmode": "disable", "gssencmode": "disable"}
            )
        )
        self._open: list[socket.socket] = [self._listener]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._open += [client, server]
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), server.makefile("rb") as messages:
            while header := messages.read(5):
                kind, length = header[:1], struct.unpack(">I", header[1:])[0]
                body = messages.read(length - 4)
                if kind == b"K":
                    process_id, secret = struct.unpack(">II", body)
                    body = struct.pack(">II", process_id ^ 1, secret)
                client.sendall(header + body)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
