"""Limits of resources that the kernel holds a process to."""

import resource


def limit_resource(kind: int, most: int) -> None:
    """Let this process and what it starts have at most `most` of a resource, for good; less where less is allowed now.

    `kind` is one of RLIMIT_*, `most` in its unit.

    Raises:
        OSError: the kernel refuses it.
    """
    _, allowed = resource.getrlimit(kind)
    ceiling = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(kind, (ceiling, ceiling))
