"""Something to be done once in a while."""

import time
from collections.abc import Callable


def every(seconds: float) -> Callable[[], bool]:
    """A function that is true once per `seconds`, beginning `seconds` from now."""
    due = time.monotonic() + seconds

    def is_due() -> bool:
        nonlocal due
        if (now := time.monotonic()) < due:
            return False
        due = now + seconds
        return True

    return is_due
