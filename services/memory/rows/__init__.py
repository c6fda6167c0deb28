"""Records as rows of stores and back: columns, values, and what a row says of itself, whoever has written it."""
