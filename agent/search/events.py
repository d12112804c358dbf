"""What a watcher of a launch may want to show."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    kind: str
    """ "server", "trial" (one starts), "result" (one ended), "step" (something beside the trials starts), "block" (a
    process of the confirmation starts), "note"."""
    text: str
    done: int = 0
    """Trials, for a block its processes; likewise `total`."""
    total: int = 0
    front: int = 0
    at_most_s: float | None = None
    """Seconds until the search ends whatever is done by then; None when only the trials end it."""
