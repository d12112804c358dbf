"""The order in which requests come: in turns, or as a trace has them, in which adapters come and go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Trace:
    """Requests in the order of production; empty without one, and then shapes of request take turns.

    `order` is what is called. Where a kind of request never comes after another one with the same adapters, `order` has
    it once more right after itself, so that its own time is known; what `counts` has is the trace as it was given.
    """

    order: tuple[Any, ...] = ()
    extra: frozenset[int] = frozenset()
    """Places in `order` that are no part of the trace."""
    swaps: frozenset[int] = frozenset()
    """Places in `order` that come after a request with other adapters; the first place follows the last."""

    @classmethod
    def of(cls, workload: Any, shapes: Sequence[Sequence[Any]], adapters: Callable[[Any], Any]) -> "Trace":
        """The workload's; adapters(request) is what has to be loaded for a request."""
        named = {request.name: request for request in workload.requests}
        given = [named[name] for name in workload.trace]
        if not given:
            return cls()
        shape_of = {request.name: place for place, requests in enumerate(shapes) for request in requests}
        steady = {
            shape_of[one.name]
            for before, one in zip([given[-1], *given], given, strict=False)
            if adapters(before) == adapters(one)
        }
        order: list[Any] = []
        extra: set[int] = set()
        for request in given:
            order.append(request)
            if (shape := shape_of[request.name]) not in steady:
                steady.add(shape)
                extra.add(len(order))
                order.append(request)
        swaps = {place for place in range(len(order)) if adapters(order[place - 1]) != adapters(order[place])}
        return cls(tuple(order), frozenset(extra), frozenset(swaps))

    @property
    def length(self) -> int:
        """How many requests the trace has as it was given."""
        return len(self.order) - len(self.extra)
