"""What keeps a process from starting."""


class StartError(Exception):
    """The process cannot start, for a reason its operator can correct; the text is meant for them."""
