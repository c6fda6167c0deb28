"""How long crew processes live."""

import asyncio
import os
import socket
from pathlib import Path


class Life:
    """How long a crew process lives, and how it has ended."""

    def __init__(self, pid: int, directory: Path | None = None) -> None:
        self.pid = pid
        self.directory = directory
        """Where it keeps files of its own."""
        self.memory_file: int | None = None
        """A descriptor of the file that says how much memory it has, while it lives."""
        self.status: int | None = None
        """Its exit status (negative: the signal that ended it) once it has ended, if anybody knows."""
        self.over = asyncio.Event()

    async def greeted(self, connection: socket.socket) -> None:
        """Wait until it has greeted, and take the descriptor that it hands over.

        One that ends instead is found out by whoever speaks to it.
        """
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)
        try:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        except ConnectionError:
            return
        if descriptors:
            self.memory_file = descriptors[0]
            if self.over.is_set():
                self._close()

    def end(self) -> None:
        """Note that it has ended."""
        self._close()
        self.over.set()

    def _close(self) -> None:
        if self.memory_file is not None:
            os.close(self.memory_file)
            self.memory_file = None
