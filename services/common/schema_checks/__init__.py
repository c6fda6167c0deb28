"""Checks of answers, of models or people, against the JSON schemas of callers."""
