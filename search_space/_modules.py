"""The one helper that most techniques share. It is exported with them, so it stands on nothing."""

from typing import Any


def unique_modules(pipelines: dict[str, Any], *names: str) -> list[Any]:
    """Every module called one of `names`, once each, however many pipelines share it."""
    found: dict[int, Any] = {}
    for pipeline in pipelines.values():
        for name in names:
            module = getattr(pipeline, name, None)
            if module is not None:
                found[id(module)] = module
    return list(found.values())
