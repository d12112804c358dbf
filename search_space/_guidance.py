"""Steps without classifier-free guidance.

Exported with the techniques that use it, as the functions of `_calls` are, which it calls.
"""

from typing import Any

from ._calls import argument_names, calling_pipeline, step_of_call, wrap_forward


def guide_some_steps(denoiser: Any, name: str, is_guided: Any) -> None:
    """Where not is_guided(position, count), compute the prompted half of the batch and return it for both halves.

    The pipeline's uncond + scale * (cond - uncond) then is cond: no guidance. With guidance_rescale that is cond as
    well. The pipeline that calls says whether it guides; calls from outside of a pipeline are left as they are.
    denoiser.guidance_counts: {"guided", "unguided"}: steps of pipelines that guide, over the denoiser's life;
    {"last_seen", "last_guided"}: of the last call, how many steps came, and how many of them were guided. Raises
    RuntimeError for a pipeline that guides in another way than by two predictions for each picture.
    """
    import weakref

    import torch

    order = argument_names(denoiser)
    counts = {"guided": 0, "unguided": 0, "last_seen": 0, "last_guided": 0}
    calls: Any = weakref.WeakKeyDictionary()

    def guided_forward(inner: Any, *args: Any, **kwargs: Any) -> Any:
        pipeline, names = calling_pipeline()
        guides = getattr(pipeline, "do_classifier_free_guidance", names.get("do_classifier_free_guidance"))
        if pipeline is None or not guides:
            return inner(*args, **kwargs)
        named = {**dict(zip(order, args, strict=False)), **kwargs}
        sample: Any = named.get("sample", named.get("hidden_states"))
        prompt = named.get("encoder_hidden_states")
        batch, latents = sample.shape[0], names.get("latents")
        half = batch // 2
        two = torch.is_tensor(latents) and batch == 2 * latents.shape[0]
        if not two or (torch.is_tensor(prompt) and prompt.shape[0] != batch):
            raise RuntimeError(
                f"{name}: {type(pipeline).__name__} guides in another way than by two predictions for each picture, "
                "and it is not known which of them to leave out; leave the technique out"
            )
        timestep = names.get("t")
        timestep = timestep if torch.is_tensor(timestep) else named["timestep"]
        call = calls[pipeline] = step_of_call(name, pipeline, timestep, calls.get(pipeline))
        position = call["index"] - call["first"]
        guided = is_guided(position, call["count"])
        # A set: a pipeline may call more than once for a step.
        steps = call.setdefault("guided", set())
        steps.update([position] if guided else [])
        counts.update(last_seen=position + 1, last_guided=len(steps))
        if guided:
            counts["guided"] += 1
            return inner(*args, **kwargs)
        counts["unguided"] += 1

        def prompted(value: Any) -> Any:
            """The second half of whatever has the batch as its first dimension."""
            if torch.is_tensor(value):
                return value[half:] if value.ndim and value.shape[0] == batch else value
            if isinstance(value, dict):
                return {key: prompted(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)(prompted(item) for item in value)
            return value

        result = inner(*prompted(args), **prompted(kwargs))
        if isinstance(result, tuple):
            return (torch.cat([result[0], result[0]]), *result[1:])
        return type(result)(sample=torch.cat([result.sample, result.sample]))

    wrap_forward(denoiser, name, guided_forward)
    denoiser.guidance_counts = counts
