"""Which pictures are made of a configuration: the requests, and then the same requests with other seeds."""

from itertools import zip_longest
from typing import Any

from ..objectives.measuring import VARIANT, variant
from ._study import Study
from .workload import Request


def picture_names(study: Study, count: int) -> tuple[str, ...]:
    """The requests, and then the same with other seeds, whose pictures together are at least `count`.

    In turn from every shape of request, so that a few already cover all pipelines and sizes.
    """
    requests = study.requests()
    shapes: dict[tuple[Any, ...], list[Request]] = {}
    for request in requests:
        shapes.setdefault(request.shape(), []).append(request)
    in_turn = [request for turn in zip_longest(*shapes.values()) for request in turn if request is not None]
    names: list[str] = []
    pictures = 0
    while pictures < count or len(names) < len(shapes):
        seeds, place = divmod(len(names), len(in_turn))
        request = in_turn[place]
        names.append(f"{request.name}{VARIANT}{seeds}" if seeds else request.name)
        pictures += variant(requests, names[-1]).batch
    return tuple(names)
