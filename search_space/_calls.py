"""What a wrapper of forward() may rely on: who calls, which step of the schedule it is, and that what was there stays.

diffusers tells a denoiser neither of the first two. These functions are exported with the techniques that use them, so
they use only public libraries and each other.
"""

from typing import Any


def wrap_forward(module: Any, name: str, around: Any) -> None:
    """Run around(inner, *args, **kwargs) in place of module.forward(), where `inner` is what was there: hooks, graphs.

    name: of the technique. Raises ValueError where the module is wrapped by it already, or compiled in a way that would
    take the wrapper into the graph. Later calls raise RuntimeError once something else has put the old forward() back.
    Hooks that come and go do not: not those of accelerate, and not those of diffusers, one of which takes itself off
    at the end of the first call (group offloading with streams).
    """
    import functools
    import threading

    import torch

    kind = type(module).__name__
    wrapped_by = vars(module).setdefault("wrapped_by", [])
    if name in wrapped_by:
        raise ValueError(f"{name}: it is applied to this {kind} already; load the pipeline anew to apply it once")
    if getattr(module, "_compiled_call_impl", None) is not None:
        raise ValueError(f"{name}: this {kind} was compiled with .compile(), which has to come after apply()")
    # accelerate's offload hooks keep forward() there, and put it back when they are removed, which pipelines do often.
    slot = "_old_forward" if hasattr(module, "_hf_hook") else "forward"
    inner = before = getattr(module, slot)
    if slot == "forward" and hasattr(module, "_diffusers_hook"):
        # The last of diffusers' hooks puts back what was there before it, whatever is there now; one that has another
        # above it tells that one what to call. So there is one above it, which does nothing.
        from diffusers.hooks import ModelHook

        hook = ModelHook()
        module._diffusers_hook.register_hook(hook, name)

        def inner(*args: Any, **kwargs: Any) -> Any:
            return hook.fn_ref.forward(*args, **kwargs)

    entered = threading.local()

    def forward(*args: Any, **kwargs: Any) -> Any:
        entered.now = True
        return around(inner, *args, **kwargs)

    def check_entered(module: Any, args: Any, output: Any) -> None:
        if not getattr(entered, "now", False):
            raise RuntimeError(
                f"{name}: the forward() of this {kind} was replaced after apply(), so {name} no longer works; "
                "load the pipeline anew and apply to it last"
            )
        entered.now = False

    # Not with the attributes of `inner`: by one of them torch.compile would find its way past the wrapper.
    functools.update_wrapper(forward, before, updated=())
    # A graph that is compiled later breaks here, instead of taking in what changes from step to step.
    setattr(module, slot, torch.compiler.disable(forward))
    module.register_forward_hook(check_entered)
    wrapped_by.append(name)


def argument_names(module: Any) -> list[str]:
    """What module.forward() calls its arguments, in their order; of the class, because its own forward() may be a
    wrapper that says nothing, and of what is inside of a compiled module.
    """
    import inspect

    return list(inspect.signature(type(getattr(module, "_orig_mod", module)).forward).parameters)[1:]


def calling_pipeline() -> tuple[Any, Any]:
    """(the pipeline whose call this is part of, the names in that call), or (None, {}) outside of any.

    Several pipelines may share a denoiser, and a scheduler, and more may be made of the same modules at any time: only
    the stack tells them apart, in every thread.
    """
    import sys

    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",):
            owner = frame.f_locals.get("self")
            if hasattr(getattr(owner, "scheduler", None), "timesteps"):
                return owner, frame.f_locals
        frame = frame.f_back
    return None, {}


def step_of_call(name: str, pipeline: Any, timestep: Any, before: Any) -> Any:
    """Where a pipeline's call stands: {"sequence", "first", "index", "count", "again"}.

    name: of the technique. before: what this function returned for the pipeline's step before, or None; the same
    object comes back as long as it is the same call. index: of the step in `sequence`, the scheduler's timesteps, which
    repeat where a scheduler has two evaluations a step; first: of the call's first step, which is not 0 for image to
    image; count: how many steps the call takes; again: whether it asks for one step more than once.
    Raises RuntimeError where the scheduler's timesteps do not say it.
    """
    import torch

    sequence = pipeline.scheduler.timesteps
    index = None
    if torch.is_tensor(sequence) and sequence.ndim == 1:
        same = before is not None and before["sequence"].data_ptr() == sequence.data_ptr()
        storage = sequence.untyped_storage().data_ptr()
        if torch.is_tensor(timestep) and timestep.untyped_storage().data_ptr() == storage:
            # Pipelines loop over a view of the sequence. To read the number, the host would wait for the device.
            index = (timestep.storage_offset() - sequence.storage_offset()) // sequence.stride(0)
        else:
            value = float(timestep.flatten()[0] if torch.is_tensor(timestep) else timestep)
            found = (sequence.cpu() == value).nonzero().flatten().tolist()
            later = [at for at in found if same and at > before["index"]]
            index = (later or found or [None])[0]
    if index is None:
        raise RuntimeError(
            f"{name}: where a step stands in the schedule is unknown, because {type(pipeline).__name__} calls the "
            f"denoiser with timesteps that are not those of its scheduler, {type(pipeline.scheduler).__name__}; "
            "use another scheduler, or leave the technique out"
        )
    if same and index >= before["index"]:
        before["again"] = before["again"] or index == before["index"]
        before["index"] = index
        return before
    count = getattr(pipeline, "num_timesteps", None)
    left = len(sequence) - index
    # Fewer where a pipeline leaves the end of the schedule to another (denoising_end).
    count = count if isinstance(count, int) and 0 < count < left else left
    return {"sequence": sequence, "first": index, "index": index, "count": count, "again": False}
