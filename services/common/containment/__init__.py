"""Keeping a process that works on what comes from outside to what it needs, by means of the kernel; see `contain`.

Nothing but the standard library is imported, so that small programs can use it. Nothing is told to the log: what holds
is returned.
"""
