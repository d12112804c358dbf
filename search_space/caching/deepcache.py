"""DeepCache: most denoising steps compute only the U-Net's outermost layers and reuse the deep features.

Ma, Fang, Wang: "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024, arXiv 2312.00858.

Skip connection number k of a U-Net leads from the input convolution (k = 0) or from layer k of the first down block to
one layer of the last up block. What reaches that layer from below, its main-branch input, changes slowly from step to
step: a full step keeps it, and the shallow steps that follow compute the layers above that skip connection only.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._calls import calling_pipeline, step_of_call, wrap_forward
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target, known_steps
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class DeepCacheParameters(Parameters):
    """interval: one step in so many is a full one. branch: the skip connection above which shallow steps compute; a
    higher number computes more and loses less. full_percent: how many of a picture's steps, from the first on, are all
    full ones (see deepcache_plan); the composition is decided there.
    """

    interval: Literal[2, 3, 4, 5] = 3
    branch: Literal[0, 1, 2] = 0
    full_percent: Literal[0, 30, 50, 70] = 0


def deepcache_plan(count: int, interval: int, full_percent: int) -> list[bool]:
    """Which of a call's `count` steps are full ones.

    Full are the first full_percent of them, rounded down, but one at least, and from the last of these on every
    interval-th. A step is a call of the denoiser: schedulers of second order take two for most of theirs. Image to
    image takes only the end of the schedule, and the percentage is of that.
    """
    last = max(0, count * full_percent // 100 - 1)
    return [step <= last or (step - last) % interval == 0 for step in range(count)]


def deepcache(pipelines: dict[str, Any], *, interval: int, branch: int, full_percent: int) -> None:
    """Split each U-Net's forward() into two functions of tensors, and replace it by a dispatcher between them.

    The functions are unet.deepcache_full and unet.deepcache_shallow; unet.forward_parts names them, so that a compiler
    can compile each as one graph. The dispatcher stays outside of any graph. Where it is not known what a shallow step
    may leave out, it computes the whole U-Net: outside of a pipeline, with a ControlNet, and so on.
    """
    import weakref

    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
    from diffusers.utils.peft_utils import apply_lora_scale

    def split(unet: Any) -> None:
        by_torch = hasattr(unet.forward, "_torchdynamo_orig_callable") and not hasattr(
            unet.forward, "_torchdynamo_disable"
        )
        if hasattr(unet, "_orig_mod") or by_torch:
            raise ValueError("deepcache: the U-Net is compiled already, and it is to be split into parts before that")
        first, last = unet.down_blocks[0], unet.up_blocks[-1]
        kinds = {type(first).__name__, type(last).__name__}
        if not kinds <= {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}:
            raise ValueError(f"deepcache: blocks of the kinds {sorted(kinds)} are unknown")
        if unet.class_embedding is not None or unet.config.addition_embed_type == "image_hint":
            raise ValueError("deepcache: U-Nets with class labels or image hints are not supported")
        if branch >= len(last.resnets) or branch > len(first.resnets):
            raise ValueError(f"deepcache: branch {branch} does not exist in this U-Net")
        # Layers of the last up block take skip connections from the highest number down to 0.
        resume = len(last.resnets) - 1 - branch

        def embed(
            sample: Any, timestep: Any, encoder_hidden_states: Any, added_cond_kwargs: Any
        ) -> tuple[Any, Any, Any]:
            """As in UNet2DConditionModel.forward: the centred sample, time embedding, processed prompt."""
            if unet.config.center_input_sample:
                sample = 2 * sample - 1.0
            emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep), None)
            aug_emb = unet.get_aug_embed(
                emb=emb, encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=added_cond_kwargs
            )
            emb = emb + aug_emb if aug_emb is not None else emb
            if unet.time_embed_act is not None:
                emb = unet.time_embed_act(emb)
            prompt = unet.process_encoder_hidden_states(
                encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=added_cond_kwargs
            )
            return sample, emb, prompt

        def layer(block: Any, number: int, hidden: Any, emb: Any, prompt: Any, cross_attention_kwargs: Any) -> Any:
            hidden = block.resnets[number](hidden, emb)
            if getattr(block, "has_cross_attention", False):
                attend = block.attentions[number]
                return attend(
                    hidden,
                    encoder_hidden_states=prompt,
                    cross_attention_kwargs=cross_attention_kwargs,
                    return_dict=False,
                )[0]
            return hidden

        def finish(hidden: Any, skips: Any, start: int, emb: Any, prompt: Any, cross_attention_kwargs: Any) -> Any:
            """The last up block from layer `start` on, and the output convolution."""
            for number in range(start, len(last.resnets)):
                hidden = torch.cat([hidden, skips[len(last.resnets) - 1 - number]], dim=1)
                hidden = layer(last, number, hidden, emb, prompt, cross_attention_kwargs)
            if unet.conv_norm_out:
                hidden = unet.conv_act(unet.conv_norm_out(hidden))
            return unet.conv_out(hidden)

        def deepcache_full(
            sample: Any, timestep: Any, encoder_hidden_states: Any, added_cond_kwargs: Any, cross_attention_kwargs: Any
        ) -> tuple[Any, Any]:
            """The whole U-Net: (noise, the main-branch input of the layer where shallow steps resume)."""
            sample, emb, prompt = embed(sample, timestep, encoder_hidden_states, added_cond_kwargs)
            odd = any(side % 2**unet.num_upsamplers for side in sample.shape[-2:])
            attention = {"encoder_hidden_states": prompt, "cross_attention_kwargs": cross_attention_kwargs}
            hidden = unet.conv_in(sample)
            skips = [hidden]
            for block in unet.down_blocks:
                extra = attention if getattr(block, "has_cross_attention", False) else {}
                hidden, outputs = block(hidden_states=hidden, temb=emb, **extra)
                skips += outputs
            if unet.mid_block is not None:
                extra = attention if getattr(unet.mid_block, "has_cross_attention", False) else {}
                hidden = unet.mid_block(hidden, emb, **extra)
            for block in unet.up_blocks[:-1]:
                taken, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
                hidden = block(
                    hidden_states=hidden,
                    temb=emb,
                    res_hidden_states_tuple=tuple(taken),
                    upsample_size=skips[-1].shape[2:] if odd else None,
                    **(attention if getattr(block, "has_cross_attention", False) else {}),
                )
            for number in range(resume):
                hidden = torch.cat([hidden, skips[len(last.resnets) - 1 - number]], dim=1)
                hidden = layer(last, number, hidden, emb, prompt, cross_attention_kwargs)
            return finish(hidden, skips, resume, emb, prompt, cross_attention_kwargs), hidden

        def deepcache_shallow(
            sample: Any,
            timestep: Any,
            encoder_hidden_states: Any,
            added_cond_kwargs: Any,
            cross_attention_kwargs: Any,
            deep: Any,
        ) -> Any:
            """The layers above skip connection `branch`, on top of `deep` from an earlier full step."""
            sample, emb, prompt = embed(sample, timestep, encoder_hidden_states, added_cond_kwargs)
            skips = [unet.conv_in(sample)]
            for number in range(branch):
                skips.append(layer(first, number, skips[-1], emb, prompt, cross_attention_kwargs))
            return finish(deep, skips, resume, emb, prompt, cross_attention_kwargs)

        # full_steps, shallow_steps: over the U-Net's life. seen, full: steps of the last call, and the full ones among
        # them. excused: steps of that call that were to be shallow and had to be full, because the batch or the prompt
        # had changed. whole: why the last step that did so took no part in all this.
        state: dict[str, Any] = {"full_steps": 0, "shallow_steps": 0}
        state.update(seen=0, full=0, excused=0, whole="")
        # Of each pipeline that is at work, as several may be, in threads of their own.
        calls: Any = weakref.WeakKeyDictionary()

        def is_stale(call: Any, sample: Any, encoder_hidden_states: Any) -> bool:
            """Whether the call has kept no features, or they are for another batch, or for another prompt."""
            deep, prompt = call.get("deep"), call.get("prompt")
            return bool(
                deep is None
                # A pipeline passes the same memory in every step, unless a callback has replaced the prompt.
                or encoder_hidden_states.data_ptr() != prompt.data_ptr()
                or encoder_hidden_states.shape != prompt.shape
                or (deep.shape[0], deep.shape[-2:]) != (sample.shape[0], sample.shape[-2:])
                or (deep.dtype, deep.device) != (sample.dtype, sample.device)
            )

        def why_whole(args: Any, kwargs: Any) -> str:
            """Why a shallow step would leave out what it must not, or nothing."""
            known = {"cross_attention_kwargs", "added_cond_kwargs", "return_dict"}
            others = [name for name, value in kwargs.items() if name not in known and value is not None]
            if args or others:
                # ControlNet, T2I-Adapter, attention masks and the like reach layers that a shallow step leaves out.
                return f"the U-Net was called with {', '.join(others) or 'more than three positional arguments'}"
            if (kwargs.get("cross_attention_kwargs") or {}).get("gligen") is not None:
                return "the U-Net was called with boxes for GLIGEN"
            for block in (first, last) if branch else (last,):
                if block._forward_hooks or block._forward_pre_hooks or "forward" in vars(block):
                    return f"a hook sits on a {type(block).__name__} whose layers are called one by one, past the hook"
            if last.resolution_idx in (0, 1) and getattr(last, "s1", None):
                return "FreeU changes what the last block does"
            return ""

        def dispatch(
            self: Any,
            call: Any,
            full: bool,
            sample: Any,
            timestep: Any,
            encoder_hidden_states: Any,
            cross_attention_kwargs: Any = None,
            added_cond_kwargs: Any = None,
            return_dict: bool = True,
        ) -> Any:
            if not torch.is_tensor(timestep):
                # A compiled part would be compiled again for each number.
                timestep = torch.tensor(timestep, device=sample.device)
            conditions = (encoder_hidden_states, added_cond_kwargs, cross_attention_kwargs)
            if full:
                noise, deep = unet.deepcache_full(sample, timestep, *conditions)
                # A copy, because CUDA graphs write the next call's results over this one's.
                call.update(deep=deep.clone(), prompt=encoder_hidden_states)
            else:
                noise = unet.deepcache_shallow(sample, timestep, *conditions, call["deep"])
            return UNet2DConditionOutput(sample=noise) if return_dict else (noise,)

        # Scales LoRA layers by cross_attention_kwargs["scale"], as the original forward() does.
        scaled_dispatch = apply_lora_scale("cross_attention_kwargs")(dispatch)

        def deepcache_forward(
            inner: Any, sample: Any, timestep: Any, encoder_hidden_states: Any, *args: Any, **kwargs: Any
        ) -> Any:
            pipeline = calling_pipeline()[0]
            if pipeline is None:
                state["whole"] = "the U-Net was called outside of a pipeline with a scheduler"
                return inner(sample, timestep, encoder_hidden_states, *args, **kwargs)
            call = calls[pipeline] = step_of_call("deepcache", pipeline, timestep, calls.get(pipeline))
            position = call["index"] - call["first"]
            planned = position >= call["count"] or deepcache_plan(call["count"], interval, full_percent)[position]
            whole = why_whole(args, kwargs)
            # More than one call for a step: windows of a large picture, say, or guidance in turns. What one of them
            # keeps is not for the next.
            full = bool(planned or whole or call["again"] or is_stale(call, sample, encoder_hidden_states))
            call["full"] = call.get("full", 0) + full
            call["excused"] = call.get("excused", 0) + (full and not planned)
            state["full_steps" if full else "shallow_steps"] += 1
            state.update(seen=position + 1, full=call["full"], excused=call["excused"])
            if whole:
                state["whole"] = whole
                call.update(deep=None, prompt=None)
                return inner(sample, timestep, encoder_hidden_states, *args, **kwargs)
            wanted = {
                name: kwargs[name]
                for name in ("cross_attention_kwargs", "added_cond_kwargs", "return_dict")
                if name in kwargs
            }
            result = scaled_dispatch(unet, call, full, sample, timestep, encoder_hidden_states, **wanted)
            if position + 1 >= call["count"]:
                # The picture is done; what was kept need not fill memory until the next.
                call.update(deep=None, prompt=None)
            return result

        wrap_forward(unet, "deepcache", deepcache_forward)
        unet.deepcache_full = deepcache_full
        unet.deepcache_shallow = deepcache_shallow
        unet.forward_parts = ["deepcache_full", "deepcache_shallow"]
        unet.deepcache_state = state

    for unet in denoisers(pipelines):
        split(unet)


def took_effect(pipelines: dict[str, Any], *, interval: int, branch: int, full_percent: int) -> str | None:
    """Whether shallow steps ran, and as many as the parameters say."""
    states = [getattr(unet, "deepcache_state", {}) for unet in denoisers(pipelines)]
    if not any(state.get("shallow_steps") for state in states):
        why = next((f": {state['whole']}" for state in states if state.get("whole")), "")
        return f"every step computed the whole U-Net{why}"
    for state in states:
        planned = sum(deepcache_plan(state["seen"], interval, full_percent)) + state["excused"]
        if state["full"] != planned:
            return f"{state['full']} of {state['seen']} steps computed the whole U-Net, and {planned} were to"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: DeepCacheParameters) -> str | None:
    """Pipelines whose denoiser is no U-Net of the known kind."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for unet in found:
        if not unet.is_unet:
            return f"the denoiser is a transformer ({unet.class_name}), without the skip connections of a U-Net"
        if unet.class_name != "UNet2DConditionModel":
            return f"a U-Net of the kind {unet.class_name} is unknown"
        if unet.layers_per_block is not None and parameters.branch > unet.layers_per_block:
            return f"the U-Net has no skip connection {parameters.branch} in its first block"
    return None


def plan(pipelines: Mapping[str, PipelineFacts], parameters: DeepCacheParameters) -> Any:
    """Which steps are shallow, and what they compute; None where every step is a full one."""
    counts = known_steps(pipelines)
    if counts is None:
        return parameters.model_dump()
    patterns = [deepcache_plan(count, parameters.interval, parameters.full_percent) for count in counts]
    return None if all(map(all, patterns)) else [parameters.branch, patterns]


TECHNIQUE = Technique(
    name="deepcache",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Computes the whole U-Net in one step of several, and only its outermost layers in the others.",
    source="https://arxiv.org/abs/2312.00858",
    parameters=DeepCacheParameters,
    apply=deepcache,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.STRUCTURE,
    roles=frozenset({Role.DENOISER}),
    traits=frozenset({Trait.CALLS_INNER_LAYERS, Trait.CACHES_STEPS}),
    adapters_later="LoRAs and IP-Adapters may be loaded after it, between pictures.",
    plan=plan,
    helpers=(torch_modules, denoisers, wrap_forward, calling_pipeline, step_of_call, deepcache_plan),
)
