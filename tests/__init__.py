"""Tests of the suite; a package, because a wheel brings another `tests` that would hide it."""
