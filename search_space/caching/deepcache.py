"""DeepCache: most denoising steps compute only the U-Net's outermost layers and reuse the deep features.

Ma, Fang, Wang: "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024, arXiv 2312.00858.

Skip connection number k of a U-Net leads from the input convolution (k = 0) or from layer k of the first down block to
one layer of the last up block. What reaches that layer from below, its main-branch input, changes slowly from step to
step: a full step keeps it, and the shallow steps that follow compute the layers above that skip connection only.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class DeepCacheParameters(Parameters):
    """interval: one step in so many is a full one. branch: the skip connection above which shallow steps compute; a
    higher number computes more and loses less. full_percent: how much of the noise schedule, from its noisy end, has
    full steps only; the composition is decided there.
    """

    interval: Literal[2, 3, 4, 5] = 3
    branch: Literal[0, 1, 2] = 0
    full_percent: Literal[0, 30, 50, 70] = 0


def deepcache(pipelines: dict[str, Any], *, interval: int, branch: int, full_percent: int) -> None:
    """Split each U-Net's forward() into two functions of tensors, and replace it by a dispatcher between them.

    The functions are unet.deepcache_full and unet.deepcache_shallow; unet.forward_parts names them, so that a compiler
    can compile each as one graph. The dispatcher stays outside of any graph.
    """
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
    from diffusers.utils.peft_utils import apply_lora_scale

    def split(unet: Any, all_full_from: float) -> None:
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

        original = unet.forward
        # full_steps, shallow_steps: over the U-Net's life. The others describe the last full step and what followed.
        state: dict[str, Any] = {"full_steps": 0, "shallow_steps": 0}
        state.update(deep=None, prompt=None, timestep=None, since_full=0)

        def is_stale(sample: Any, timestep: float, encoder_hidden_states: Any) -> bool:
            """Whether the kept features belong to another picture, another batch, or are too old."""
            deep, prompt = state["deep"], state["prompt"]
            return bool(
                timestep >= all_full_from
                or state["since_full"] + 1 >= interval
                # Within a picture the timestep only falls. Schedulers and pipelines are not asked: several may share
                # the U-Net, and a product may swap a scheduler at any time.
                or timestep >= state["timestep"]
                # Within a call of a pipeline the prompt stays where it is. The state holds on to that memory, so that
                # no other prompt can be found there. This tells apart a picture that starts (image to image) at a lower
                # timestep than where the one before ended or was cancelled.
                or encoder_hidden_states.data_ptr() != prompt.data_ptr()
                or encoder_hidden_states.shape[1:] != prompt.shape[1:]
                or (deep.shape[0], deep.shape[-2:]) != (sample.shape[0], sample.shape[-2:])
                or (deep.dtype, deep.device) != (sample.dtype, sample.device)
            )

        def dispatch(
            self: Any,
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
            # The one wait for the device per step.
            now = float(timestep.flatten()[0].item())
            conditions = (encoder_hidden_states, added_cond_kwargs, cross_attention_kwargs)
            if state["deep"] is None or is_stale(sample, now, encoder_hidden_states):
                noise, deep = unet.deepcache_full(sample, timestep, *conditions)
                # A copy, because CUDA graphs write the next call's results over this one's.
                state.update(deep=deep.clone(), prompt=encoder_hidden_states, since_full=0)
                state["full_steps"] += 1
            else:
                noise = unet.deepcache_shallow(sample, timestep, *conditions, state["deep"])
                state["since_full"] += 1
                state["shallow_steps"] += 1
            state["timestep"] = now
            return UNet2DConditionOutput(sample=noise) if return_dict else (noise,)

        # Scales LoRA layers by cross_attention_kwargs["scale"], as the original forward() does.
        scaled_dispatch = apply_lora_scale("cross_attention_kwargs")(dispatch)

        def forward(sample: Any, timestep: Any, encoder_hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            known = {"cross_attention_kwargs", "added_cond_kwargs", "return_dict"}
            others = any(value is not None for name, value in kwargs.items() if name not in known)
            gligen = (kwargs.get("cross_attention_kwargs") or {}).get("gligen") is not None
            if args or others or gligen:
                # ControlNet, T2I-Adapter, attention masks and the like reach layers that a shallow step leaves out.
                state["deep"] = None
                return original(sample, timestep, encoder_hidden_states, *args, **kwargs)
            wanted = {name: value for name, value in kwargs.items() if name in known}
            return scaled_dispatch(unet, sample, timestep, encoder_hidden_states, **wanted)

        unet.deepcache_full = deepcache_full
        unet.deepcache_shallow = deepcache_shallow
        unet.forward_parts = ["deepcache_full", "deepcache_shallow"]
        unet.deepcache_state = state
        unet.forward = forward

    for unet in denoisers(pipelines):
        all_full_from = float("inf")
        if full_percent:
            owner = next(p for p in pipelines.values() if any(found is unet for found in denoisers({"": p})))
            all_full_from = owner.scheduler.config.num_train_timesteps * (1 - full_percent / 100)
        split(unet, all_full_from)


def took_effect(pipelines: dict[str, Any], *, interval: int, branch: int, full_percent: int) -> str | None:
    """Whether shallow steps ran."""
    states = [getattr(unet, "deepcache_state", {}) for unet in denoisers(pipelines)]
    if not any(state.get("shallow_steps") for state in states):
        return "every step computed the whole U-Net"
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
    traits=frozenset({Trait.CALLS_INNER_LAYERS}),
    helpers=(torch_modules, denoisers),
)
