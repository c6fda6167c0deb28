"""The helper process that counts tokens, with the files of tokenizers that litellm carries: nothing is downloaded.

It is run by its path and in isolation; see `helper_program.serve_readings`.
"""

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tiktoken

# The names of their files, by which tiktoken finds them.
_FILES = {
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
}
# No token goes over such a place.
_LINE_ENDS = re.compile(r"(?<=\n)(?=[^\s/])")
# Time grows with the square of a text in which tokenizers find no place to cut, and their stack is not endless.
_LONGEST_PIECE = 100_000


def read(what: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return how many tokens texts have together by the tokenizer of a name.

    Raises:
        ValueError: it is not at hand, or a text has no place to cut for too long.
    """
    return {"tokens": count(load(what), given["content"], given["sizes"])}


def count(tokenizer: tiktoken.Encoding, content: bytes, sizes: Sequence[int]) -> int:
    """Return how many tokens the texts have that lie behind one another in `content`; `sizes` are in bytes.

    Raises:
        ValueError: a text has no place to cut for too long.
    """
    tokens, start = 0, 0
    for size in sizes:
        for piece in pieces(content[start : start + size].decode()):
            if len(piece) > _LONGEST_PIECE:
                raise ValueError("a text has no place to cut it at")
            tokens += len(tokenizer.encode_ordinary(piece))
        start += size
    return tokens


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces that have as many tokens as the whole."""
    if len(text) <= _LONGEST_PIECE:
        yield text
        return
    piece = ""
    for line in _LINE_ENDS.split(text):
        if piece and len(piece) + len(line) > _LONGEST_PIECE:
            yield piece
            piece = ""
        piece += line
    yield piece


@functools.cache
def load(name: str) -> tiktoken.Encoding:
    """Return a tokenizer.

    Raises:
        ValueError: there is no file of it here.
    """
    litellm = importlib.util.find_spec("litellm")
    directory = Path((litellm and litellm.origin) or os.devnull).parent / "litellm_core_utils" / "tokenizers"
    # Without its file, tiktoken would fetch it.
    if not (directory / _FILES[name]).is_file():
        raise ValueError("the tokenizer is not at hand")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(directory)
    return tiktoken.get_encoding(name)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    from services.common.helper_program import serve_readings

    serve_readings(read)
