"""The ``coxswain`` command line."""
