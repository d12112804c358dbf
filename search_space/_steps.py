"""What a step cache is built on: which step of which picture a call of the denoiser is, and what may be kept until the
next.

Exported with the techniques that use it, as the functions of `_calls` are, which it calls.
"""

from typing import Any

from ._calls import argument_names, calling_pipeline, step_of_call, wrap_forward


def wrap_steps(module: Any, name: str, step: Any) -> None:
    """Run step(inner, named, place) in place of module.forward() for every step of a pipeline's call.

    inner: what was there; it takes `named`, the arguments by their names. place: {"position", "count", "ordinal",
    "kept"}: which of the call's `count` steps it is, which of several calls for that step (guidance in turns, windows
    of a large picture), and the dictionary in which the step leaves what later ones may use. It is empty when a picture
    begins, and as soon as batch, size, number format or prompt are others; each pipeline, and each ordinal, has one of
    its own. "guided" says whether the batch is guidance's two halves. A call from outside of a pipeline is a picture of
    one step. Nothing here waits for the device.
    """
    import weakref

    import torch

    order = argument_names(module)
    calls: Any = weakref.WeakKeyDictionary()

    def conditions(named: Any) -> Any:
        """What has to stay as it is from step to step. A pipeline passes the same prompt, in the same memory."""
        sample = named.get("sample", named.get("hidden_states"))
        prompt = named.get("encoder_hidden_states")
        where = (prompt.data_ptr(), prompt.shape) if torch.is_tensor(prompt) else None
        return (sample.shape, sample.dtype, sample.device, where)

    def steps_forward(inner: Any, *args: Any, **kwargs: Any) -> Any:
        pipeline, names = calling_pipeline()
        named = {**dict(zip(order, args, strict=False)), **kwargs}
        if pipeline is None:
            return step(inner, named, {"position": 0, "count": 1, "ordinal": 0, "kept": {}, "guided": False})
        # Flow pipelines pass the timestep divided by 1000; the step of their loop is called t, as everywhere.
        timestep = names.get("t")
        timestep = timestep if torch.is_tensor(timestep) else named["timestep"]
        before = calls.get(pipeline)
        last = before["index"] if before else None
        call = calls[pipeline] = step_of_call(name, pipeline, timestep, before)
        again = call is before and call["index"] == last
        call["ordinal"] = call["ordinal"] + 1 if again else 0
        found = conditions(named)
        kept, expected = call.setdefault("kept", {}).get(call["ordinal"], ({}, None))
        if found != expected:
            # The prompt is held, so that no other can be found in its memory.
            kept = {}
            call["kept"][call["ordinal"]] = (kept, found)
            call.setdefault("prompts", {})[call["ordinal"]] = named.get("encoder_hidden_states")
        position = call["index"] - call["first"]
        place = {"position": position, "count": call["count"], "ordinal": call["ordinal"], "kept": kept}
        guides = getattr(pipeline, "do_classifier_free_guidance", names.get("do_classifier_free_guidance"))
        latents = names.get("latents")
        place["guided"] = bool(guides) and torch.is_tensor(latents) and found[0][0] == 2 * latents.shape[0]
        try:
            result = step(inner, named, place)
        except BaseException:
            kept.clear()
            raise
        if position + 1 >= call["count"]:
            # The picture is done; what was kept need not fill memory until the next.
            kept.clear()
            call["prompts"].pop(call["ordinal"], None)
            call["kept"].pop(call["ordinal"], None)
        return result

    wrap_forward(module, name, steps_forward)


STEP_HELPERS = (wrap_forward, argument_names, calling_pipeline, step_of_call, wrap_steps)
"""What a technique that calls wrap_steps names among its helpers."""
