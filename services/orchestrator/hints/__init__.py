"""Hints: who waits for something hears at once that there is something to read.

A hint carries no truth. It may be lost, doubled or late; a listener also reads the rows regularly. So publishing
never fails and never waits, and listeners get `RESYNC` when hints may have been lost.

Three buses do the same: `LocalHintBus` within the API process, `PostgresHintBus` through LISTEN and NOTIFY, and
`RemoteHintBus` from a worker host to the API process where the database cannot carry hints (SQLite).
"""
