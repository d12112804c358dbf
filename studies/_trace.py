"""The order in which production sends requests: a sequence, or one drawn from shares with a seed."""

import random
from collections.abc import Mapping, Sequence

from pydantic import Field

from ._sections import Name, Section

MOST_LENGTH, MOST_SHARE = 1000, 10**9


class TraceSpec(Section):
    """A sequence that is drawn: every request once at least, the others by their shares."""

    length: int = Field(ge=1, le=MOST_LENGTH)
    """How many requests it has."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """The same seed draws the same sequence."""
    shares: dict[Name, float] | None = None
    """`{request: share}`; not set, the requests' `weight`."""


def check_trace(trace: Sequence[str] | TraceSpec, weights: Mapping[str, float]) -> None:
    """Raise ValueError for a trace that does not fit requests of these names."""
    named = list(trace.shares or weights) if isinstance(trace, TraceSpec) else list(trace)
    if unknown := next((name for name in named if name not in weights), None):
        raise ValueError(f"trace: there is no request {unknown!r}; there are {', '.join(weights)}")
    if missing := next((name for name in weights if name not in named), None):
        raise ValueError(f"trace: the request {missing!r} is never sent: put it in, or leave it out of the requests")
    if isinstance(trace, TraceSpec) and any(
        not 0 < share <= MOST_SHARE for share in (trace.shares or weights).values()
    ):
        raise ValueError(f"trace: a share is a number above 0, of {MOST_SHARE:,} at most")
    if isinstance(trace, TraceSpec) and trace.length < len(weights):
        raise ValueError(f"trace: it needs a length of {len(weights)} at least, so that every request comes once")


def drawn_trace(trace: Sequence[str] | TraceSpec, weights: Mapping[str, float]) -> list[str]:
    """The names of the requests in order."""
    if not isinstance(trace, TraceSpec):
        return list(trace)
    shares = trace.shares or weights
    random_ = random.Random(trace.seed)
    more = random_.choices(list(weights), [shares[name] for name in weights], k=trace.length - len(weights))
    order = [*weights, *more]
    random_.shuffle(order)
    return order
