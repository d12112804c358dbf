"""Which pictures are made of a configuration: the requests, and then the same requests with other seeds."""

from typing import Any

from ...objectives.measuring import VARIANT, variant
from ...studies import Request, Study


def picture_names(study: Study, count: int) -> tuple[str, ...]:
    """The requests, and then the same with other seeds, whose pictures together are at least `count`.

    In turn from every shape of request, so that a few already cover all pipelines and sizes.
    """
    requests = study.requests()
    shapes: dict[tuple[Any, ...], list[Request]] = {}
    for request in requests:
        shapes.setdefault(request.shape(), []).append(request)
    longest = max(map(len, shapes.values()))
    in_turn = [group[i] for i in range(longest) for group in shapes.values() if i < len(group)]
    names: list[str] = []
    pictures = 0
    number = 0
    while pictures < count or len(names) < len(shapes):
        for request in in_turn:
            if pictures >= count and len(names) >= len(shapes):
                break
            names.append(request.name if number == 0 else f"{request.name}{VARIANT}{number}")
            pictures += variant(requests, names[-1]).batch
        number += 1
    return tuple(names)
