"""The directory of each crew's ChromaDB, and the collections in it."""

import asyncio
import hashlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cachetools import LRUCache

from services.memory.domain.namespaces import NamespaceKey

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}")
_OPEN_DIRECTORIES = 64

Result = TypeVar("Result")


class ChromaDirectories:
    """One directory `coxswain_default_<crew id>` for each crew, below one for its group.

    ChromaDB blocks and is not safe for several writers: work on one directory is done by one thread at a time.
    """

    def __init__(self, root: Path) -> None:
        """Raises ImportError when ChromaDB is not installed."""
        import chromadb
        from chromadb.config import Settings

        self._open: Callable[[str], Any] = lambda path: chromadb.PersistentClient(
            path, settings=Settings(anonymized_telemetry=False, allow_reset=False)
        )
        self._root = root
        self._clients: LRUCache[Path, Any] = LRUCache(_OPEN_DIRECTORIES)
        self._locks: dict[Path, threading.Lock] = {}
        self._guard = threading.Lock()

    def path(self, key: NamespaceKey) -> Path:
        """Return a crew's directory; ids that are not plain names are replaced by their hash."""
        group = hashlib.sha256(key.group_id.encode()).hexdigest()[:32]
        crew = key.memory_id or "documents"
        if not _PLAIN.fullmatch(crew) or (crew == "documents" and key.memory_id):
            crew = "x" + hashlib.sha256(key.memory_id.encode()).hexdigest()[:40]
        return self._root / group / f"coxswain_default_{crew}"

    async def run(self, key: NamespaceKey, work: Callable[[Any], Result]) -> Result:
        """Do work with a namespace's collection in a thread; it is made when it is not there."""
        return await asyncio.to_thread(self._locked, key, work)

    def _locked(self, key: NamespaceKey, work: Callable[[Any], Result]) -> Result:
        path = self.path(key)
        with self._guard:
            lock = self._locks.setdefault(path, threading.Lock())
        with lock:
            collection = self._client(path).get_or_create_collection(
                key.kind.name.lower(), metadata={"hnsw:space": "cosine"}, embedding_function=None
            )
            return work(collection)

    def _client(self, path: Path) -> Any:
        with self._guard:
            client = self._clients.get(path)
            if client is None:
                path.mkdir(parents=True, exist_ok=True)
                client = self._clients[path] = self._open(str(path))
            return client
