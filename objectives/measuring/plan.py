"""What one process does with a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often a configuration is called, and what is measured besides its latency."""

    calls: int = 5
    """Timed calls per shape of request, at least."""
    most_calls: int = 100
    most_seconds: float = 60.0
    """Timed seconds per shape of request, at most, once `calls` are done."""
    target: float = 0.01
    """Relative width of the median's interval that is narrow enough."""
    warm_up_calls: int = 2
    """Calls per shape of request before timing; the very first one is the cold one."""
    measure: bool = True
    """Whether calls are timed."""
    memory: bool = True
    stages: bool = True
    only_cold: bool = False
    """Stop after the first call."""
    artefacts: bool = True
    """Whether compiled code that lies beside apply.py is loaded."""
    pictures: tuple[str, ...] = ()
    """Requests, or variants of them, to keep pictures of; at least the timed ones'."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """The inverse of dataclasses.asdict, also after a way through JSON."""
        return cls(**{**values, "pictures": tuple(values.get("pictures", ()))})
