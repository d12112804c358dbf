"""diffusers' cache hooks, made safe: begun anew with every picture, and counted.

Exported with the techniques that use it, as the functions of `_steps` and `_one_thread` are, which it calls.
"""

from typing import Any

from ._one_thread import one_thread_at_a_time
from ._steps import STEP_HELPERS, wrap_steps


def hook_cache(denoiser: Any, name: str, install: Any, by_context: bool) -> None:
    """Install cache hooks on layers of `denoiser`, and have their state forgotten whenever a picture begins.

    install(place) puts the hooks there; `place` is a dictionary that holds, while a step runs, what wrap_steps says of
    it, and whether the state is "fresh", so that nothing is kept yet. A function that install returns is called before
    each step. by_context: whether the hooks keep a state for each of several calls for one step (diffusers'
    cache_context); those that do not compute everything where a pipeline makes several.

    diffusers forgets at the end of a pipeline's call, for some denoisers: not after a picture that was cancelled, not
    when batch, size or prompt change in the middle, not between pipelines that take turns.
    denoiser.hook_cache_counts: {"steps", "hooked", "ran"}: steps, layers with a hook, and how often one of these ran.
    Raises ValueError where no layer got a hook, and for a denoiser that is compiled already, whose graph would take the
    hooks in or go past them. Calls from two threads at once raise RuntimeError: the hooks have one memory.
    """
    import contextlib
    import functools

    from diffusers.hooks import HookRegistry
    from diffusers.models.cache_utils import CacheMixin

    if hasattr(denoiser, "_orig_mod"):
        raise ValueError(f"{name}: the denoiser is compiled already, and this puts hooks inside: compile it afterwards")
    alone = one_thread_at_a_time(denoiser, name)
    place_now: dict[str, Any] = {"position": 0, "count": 1, "guided": False, "fresh": True}
    counts = {"steps": 0, "hooked": 0, "ran": 0}
    kept_by: dict[int, Any] = {}

    def counted(original: Any) -> Any:
        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            counts["ran"] += 1
            return original(*args, **kwargs)

        return run

    def hooks_of(module: Any) -> list[Any]:
        registry = getattr(module, "_diffusers_hook", None)
        return list(registry.hooks.values()) if registry is not None else []

    before = {id(hook) for module in denoiser.modules() for hook in hooks_of(module)}
    prepare = install(place_now)
    # The denoiser itself may have a hook that calls it with other arguments, which leaves nothing out.
    added = [hook for module in denoiser.modules() if module is not denoiser for hook in hooks_of(module)]
    for hook in added:
        if id(hook) not in before:
            hook.fn_ref.original_forward = counted(hook.fn_ref.original_forward)
            counts["hooked"] += 1
    if not counts["hooked"]:
        raise ValueError(f"{name}: diffusers knows no layer of a {type(denoiser).__name__} that it could keep")
    registry = HookRegistry.check_if_exists_or_initialize(denoiser)
    registry.invalidate_child_registries_cache()

    def hook_step(inner: Any, named: Any, place: Any) -> Any:
        with alone():
            return hook_step_alone(inner, named, place)

    def hook_step_alone(inner: Any, named: Any, place: Any) -> Any:
        kept, ordinal = place["kept"], place["ordinal"] if by_context else 0
        known = kept_by.get(ordinal)
        place_now.update(place, fresh=known is not kept)
        if known is not kept:
            # Another picture, another pipeline, or other conditions. A first call of a later ordinal has no state yet.
            if ordinal == 0 or known is not None:
                registry.reset_stateful_hooks(recurse=True)
                kept_by.clear()
            kept_by[ordinal] = kept
        counts["steps"] += 1
        if prepare is not None:
            prepare()
        with CacheMixin.cache_context(denoiser, str(ordinal)):
            return inner(**named)

    wrap_steps(denoiser, name, hook_step)
    if hasattr(denoiser, "cache_context"):
        # Pipelines set a context of their own around the call, which another thread would get in the middle of its own.
        denoiser.cache_context = lambda name: contextlib.nullcontext()
    denoiser.hook_cache_counts = counts


HOOK_CACHE_HELPERS = (*STEP_HELPERS, one_thread_at_a_time, hook_cache)
"""What a technique that calls hook_cache names among its helpers."""


def hook_cache_effect(denoisers: Any) -> str | None:
    """Whether the hooks left any layer out; why not, otherwise."""
    none = {"steps": 0, "hooked": 0, "ran": 0}
    found = [getattr(denoiser, "hook_cache_counts", none) for denoiser in denoisers]
    if not any(counts["hooked"] for counts in found):
        return "no layer of a denoiser has a hook"
    if all(counts["ran"] >= counts["steps"] * counts["hooked"] for counts in found):
        return "every layer was computed in every step"
    return None


def transformer_refusal(pipelines: Any, instead: str = "") -> str | None:
    """Why diffusers' hooks for transformers have nothing to do in these denoisers; None when they have.

    instead: what does the same for U-Nets.
    """
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    if any(denoiser.is_unet for denoiser in found):
        hint = f": for U-Nets there is {instead}" if instead else ""
        return f"the denoiser is a U-Net, and the hooks are for transformers{hint}"
    return None
