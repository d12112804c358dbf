"""What a launch reports while it runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    kind: str
    """ "server", "trial" (one starts), "result" (one ended), "step" (something beside the trials starts), "block" (a
    process of the confirmation starts), "note"."""
    text: str
    done: int = 0
    """Trials so far (for "block", processes), of `total`."""
    total: int = 0
    front: int = 0
    at_most_s: float | None = None
    """Seconds until the time budget ends the search; None without one."""
