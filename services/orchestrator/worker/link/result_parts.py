"""How the parts of a long result say in their metadata that they are some: both processes look at it."""

from typing import Final

PART: Final = "part"
"""Which one it is, from 1."""
PARTS: Final = "parts"
"""How many there are. What has it replaces no near-copy: parts of one result are much alike, and none may be lost."""
