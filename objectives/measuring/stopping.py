"""When a configuration has been measured enough."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .intervals import relative_interval_width

CLEARLY = 1.5
"""A configuration that takes this many times as long as another one is not saved by more calls."""
INTERVAL_SHARE = 0.5
"""Of the noise floor: a median whose interval is as wide as the floor adds noise that the floor does not include."""
NARROWEST_TARGET = 0.002
"""A narrower interval would need more calls than anyone waits for."""

INTERVAL, TIME, CALLS = "interval", "time", "calls"
"""Why measuring stopped: the median's interval is narrow enough; the time is spent; so are the calls."""


@dataclass(frozen=True)
class StopRule:
    """At least `least_calls`; then until the median's 95 % interval is narrower than `target` (relative), or the time
    or the calls are spent. See interval_target for a target that suits a noise floor.
    """

    least_calls: int = 5
    most_calls: int = 100
    most_seconds: float = 60.0
    target: float = 0.01

    def reason(self, samples_ms: Sequence[float], seconds: float) -> str | None:
        """Why to stop, or None to go on; `seconds` were spent on these samples."""
        if len(samples_ms) < self.least_calls:
            return None
        if relative_interval_width(samples_ms) <= self.target:
            return INTERVAL
        if len(samples_ms) >= self.most_calls:
            return CALLS
        return TIME if seconds >= self.most_seconds else None


def interval_target(latency_floor: float) -> float:
    """How narrow the interval of a median has to be, relative to it, beside this noise floor of latency (relative)."""
    return max(INTERVAL_SHARE * latency_floor, NARROWEST_TARGET)


def dominated_by(
    known: Mapping[str, float], drift: Callable[[], float | None], front: Sequence[Mapping[str, float]]
) -> int | None:
    """The number of a measured trial that makes this one pointless, or None.

    Clearly faster, and no worse in any other objective, where the figures of the running trial are what they are so
    far: they can only rise. `known` has latency_ms and every other figure that the entries of `front` have beside
    `trial`, but for drift, which is asked for only when it decides.
    """
    for other in front:
        if known["latency_ms"] <= CLEARLY * other["latency_ms"]:
            continue
        if any(known[name] < other[name] for name in other if name not in ("trial", "latency_ms", "drift")):
            continue
        if "drift" not in other:
            return int(other["trial"])
        seen = drift()
        if seen is not None and seen >= other["drift"]:
            return int(other["trial"])
    return None
