"""The packaged embedding model: averaged token vectors out of the wordllama wheel."""

import importlib.util
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.models.domain.answer import Vectors

DIMENSION = 256
_TOKENIZER_FILE = "tokenizers/l2_supercat_tokenizer_config.json"
_WEIGHTS_FILE = "weights/l2_supercat_256.safetensors"
_WEIGHTS_TENSOR = "embedding.weight"
# Tokens whose vectors are held at once: 8 MB for a text of any length.
_SLICE = 8192
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class _Loaded:
    tokenizer: Any
    weights: NDArray[np.float16]


class PackagedEmbedder:
    """Embeds and counts tokens with the model that lies in the wordllama wheel.

    Its files are read without importing wordllama, which would load an HTTP client and keep the weights in twice the
    width. The vectors are wordllama's own. The weights are mapped, not read: they cost the memory of the tokens that
    occur, and processes share it. The model is loaded at first use. Methods block and may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Return one unit-length row for each text, and how many tokens they have together.

        Raises:
            InvalidArgument: a text has no tokens.
        """
        model = self._model()
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        tokens = 0
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            encodings = model.tokenizer.encode_batch_fast(
                list(texts[start : start + _TEXTS_AT_ONCE]), add_special_tokens=False
            )
            for offset, encoding in enumerate(encodings, start=start):
                ids = encoding.ids
                tokens += len(ids)
                vectors[offset] = self._mean(model.weights, ids)
        lengths = np.linalg.norm(vectors, axis=1)
        if (empty := np.flatnonzero(lengths == 0)).size:
            raise InvalidArgument.field(
                f"texts[{empty[0]}]", "must contain text: its characters have no tokens to embed"
            )
        vectors /= lengths[:, np.newaxis]
        return vectors, tokens

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens the texts have together."""
        return sum(self.count_each(texts))

    def count_each(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has."""
        encodings = self._model().tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]

    @staticmethod
    def _mean(weights: NDArray[np.float16], ids: list[int]) -> NDArray[np.float32]:
        total = np.zeros(DIMENSION, dtype=np.float32)
        for start in range(0, len(ids), _SLICE):
            total += weights[ids[start : start + _SLICE]].sum(axis=0, dtype=np.float32)
        return total / np.float32(max(len(ids), 1))

    def _model(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load()
            return self._loaded


def _load() -> _Loaded:
    # Imported only by those who embed offline.
    from tokenizers import Tokenizer

    wheel = importlib.util.find_spec("wordllama")
    if wheel is None or wheel.origin is None:
        raise ModuleNotFoundError("the packaged embedding model is part of the wordllama wheel, which is not installed")
    folder = Path(wheel.origin).parent
    tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER_FILE))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _Loaded(tokenizer, _map_tensor(folder / _WEIGHTS_FILE, _WEIGHTS_TENSOR))


def _map_tensor(path: Path, name: str) -> NDArray[np.float16]:
    """Map a tensor of a safetensors file: the length of a JSON header, the header, then the tensors' bytes."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        tensor = json.loads(file.read(header_size))[name]
    if tensor["dtype"] != "F16":
        raise ValueError(f"{path.name}: the packaged embeddings are expected as F16, not {tensor['dtype']}")
    return np.memmap(
        path, dtype="<f2", mode="r", offset=8 + header_size + tensor["data_offsets"][0], shape=tuple(tensor["shape"])
    )
