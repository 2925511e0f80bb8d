"""A lock on an open file, which ends with the process that holds it, however it ends."""

from __future__ import annotations


def lock_file(handle: int) -> bool:
    """Lock an open file for this process alone, without waiting.

    Args:
        handle: the file's descriptor.

    Returns:
        False if another process holds it; True also where the system or the file system knows no locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
