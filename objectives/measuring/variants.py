"""Variants of a request: the same, with other seeds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

VARIANT = "~"
"""`cat~2` is the request cat with other seeds: its second variant."""
VARIANT_SEEDS = 1000


def variant(requests: Sequence[Any], name: str) -> Any:
    """The request of that name; "cat~2" is cat with its seeds raised by 2000. Raises KeyError."""
    plain, _, number = name.partition(VARIANT)
    found = {request.name: request for request in requests}[plain]
    return dataclasses.replace(found, name=name, seed=found.seed + VARIANT_SEEDS * int(number)) if number else found
