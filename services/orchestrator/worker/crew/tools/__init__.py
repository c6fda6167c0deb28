"""The tools crews can use, built from an allow-list."""
