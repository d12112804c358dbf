"""torch.compile, or code that came with the configuration, with a count of what it did.

Exported with the techniques that use it, as the functions of `_modules` are.
"""

from typing import Any

from ._aot_compile import compile_call_to_folder, load_call_from_folder
from ._aotinductor import compile_to_library, load_library
from ._artefacts import answered, build_artefact, exported, load_code, why_missed
from ._beside import compile_beside, compiling_beside, copied
from ._call_shape import call_key, described, described_switches, named_differences, put_together, switches
from ._standalone import byte_code, compile_to_folder, in_folder, keep_needed, load_from_folder
from ._structure import WATCHING, unseen_tensor


def compiled(module: Any, part: str, artefacts: Any = None, **options: Any) -> None:
    """Compile `module.part` in place, so that hooks and wrappers added later stay outside of the compiled graph.

    artefacts: what open_artefacts gave, to use the code in it; None: torch.compile. options: of torch.compile.
    module.compiled_parts[part] counts its "calls", the "graphs" that torch.compile made in them, and how artefacts
    answered them (see `answered`); "building" is 1 where what it runs is put into artefacts.
    """
    import torch

    inner = getattr(module, part)
    mode, more = options.get("mode") or "default", options.get("options") or {}
    with_mode = {**torch._inductor.list_mode_options(mode), **more}
    counts = dict.fromkeys(("calls", "graphs", "loaded", "missed", "eager", "compiled", "ready"), 0)
    counts["building"] = int(artefacts is not None and artefacts["on_miss"] == "build")
    module.__dict__.setdefault("compiled_parts", {})[part] = counts

    def compile_now(function: Any) -> Any:
        # Every batch size and resolution is a graph of its own, and every width of a block; beyond the limit torch
        # falls back to eager silently.
        torch._dynamo.config.recompile_limit = 256
        run: Any = torch.compile(function, **options)
        made: Any = torch._dynamo.utils.counters

        def counted(*args: Any, **kwargs: Any) -> Any:
            before = made["stats"]["unique_graphs"]
            result = run(*args, **kwargs)
            counts["graphs"] += made["stats"]["unique_graphs"] - before
            if with_mode.get("triton.cudagraphs"):
                # torch hands out the memory that the graph's next run writes to, and callers keep what they get: a
                # text encoder is asked for the prompt, then for the negative one, and both are used after that.
                return torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, result)
            return result

        return counted

    if artefacts is not None:
        setattr(module, part, answered(artefacts, module, part, inner, compile_now, with_mode, counts))
        return
    run = compile_now(inner)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        counts["calls"] += 1
        return result

    setattr(module, part, call)


COMPILED_HELPERS = (
    *WATCHING,
    call_key,
    described,
    named_differences,
    put_together,
    switches,
    described_switches,
    unseen_tensor,
    in_folder,
    byte_code,
    keep_needed,
    compile_to_folder,
    load_from_folder,
    compile_call_to_folder,
    load_call_from_folder,
    compile_to_library,
    load_library,
    compiling_beside,
    compile_beside,
    copied,
    load_code,
    exported,
    build_artefact,
    why_missed,
    answered,
    compiled,
)
"""What a technique that calls compiled() names among its helpers."""


def not_compiled(modules: list[Any]) -> str | None:
    """Which of these modules did not run compiled; None when all did. Equal modules share their graphs."""
    parts = [(type(m).__name__, name, n) for m in modules for name, n in getattr(m, "compiled_parts", {}).items()]
    made = {
        (kind, name): sum(n["graphs"] + n["loaded"] for k, p, n in parts if (k, p) == (kind, name))
        for kind, name, _ in parts
    }
    for module in modules:
        if not getattr(module, "compiled_parts", {}):
            return f"{type(module).__name__} is not compiled"
    for kind, name, counts in parts:
        if not counts["calls"]:
            return f"the compiled {name} of {kind} was not called"
        if not made[kind, name]:
            return f"no graph was made of {name} of {kind}"
    return None
