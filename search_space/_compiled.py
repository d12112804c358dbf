"""torch.compile, with a count of what it did.

Exported with the techniques that use it, as the functions of `_modules` are.
"""

from typing import Any


def compiled(module: Any, part: str, **options: Any) -> None:
    """Compile `module.part` in place, so that hooks and wrappers added later stay outside of the compiled graph.

    module.compiled_parts[part] counts its "calls", and the "graphs" that were made in them.
    """
    import torch

    # Every batch size and resolution is a graph of its own, and every width of a block; beyond the limit torch falls
    # back to eager silently.
    torch._dynamo.config.recompile_limit = 256
    run = torch.compile(getattr(module, part), **options)
    counts = {"calls": 0, "graphs": 0}
    module.__dict__.setdefault("compiled_parts", {})[part] = counts
    made = torch._dynamo.utils.counters

    def call(*args: Any, **kwargs: Any) -> Any:
        before = made["stats"]["unique_graphs"]
        result = run(*args, **kwargs)
        counts["calls"] += 1
        counts["graphs"] += made["stats"]["unique_graphs"] - before
        return result

    setattr(module, part, call)


def not_compiled(modules: list[Any]) -> str | None:
    """Which of these modules did not run compiled; None when all did. Equal modules share their graphs."""
    parts = [(type(m).__name__, name, n) for m in modules for name, n in getattr(m, "compiled_parts", {}).items()]
    graphs = {(kind, name): sum(n["graphs"] for k, p, n in parts if (k, p) == (kind, name)) for kind, name, _ in parts}
    for module in modules:
        if not getattr(module, "compiled_parts", {}):
            return f"{type(module).__name__} is not compiled"
    for kind, name, counts in parts:
        if not counts["calls"]:
            return f"the compiled {name} of {kind} was not called"
        if not graphs[kind, name]:
            return f"no graph was made of {name} of {kind}"
    return None
