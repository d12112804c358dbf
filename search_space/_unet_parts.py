"""A U-Net's forward() in three parts, between which a step cache decides what it computes.

Exported with the techniques that use it, as the functions of `_modules` are.
"""

from typing import Any


def ends_are_known(unet: Any) -> bool:
    """Whether a U-Net's first and last block are of the kinds that unet_parts takes apart."""
    kinds = {type(block).__name__ for block in (unet.down_blocks[0], unet.up_blocks[-1])}
    return kinds <= {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}


def unet_parts(unet: Any, name: str, branch: int) -> dict[str, Any]:
    """{"head", "middle", "tail", ...}: functions that, one after the other, are unet.forward(), and what they make up.

    Skip connection number k of a U-Net leads from the input convolution (k = 0) or from layer k of the first down block
    to one layer of the last up block. head(sample, timestep, encoder_hidden_states, added_cond_kwargs,
    cross_attention_kwargs) computes what lies before skip connection `branch` and returns (skips from 0 to branch, time
    embedding, prompt); middle(skips, emb, prompt, cross_attention_kwargs) what lies below it, and returns what reaches
    the last up block's layer from there; tail(skips, emb, prompt, cross_attention_kwargs, deep) the rest, and returns
    the noise. full(the arguments of head) computes all three and returns (noise, what middle returned);
    shallow(the same, deep) the outermost ones. call(compute) makes a function of them that takes the arguments of
    unet.forward() by name. why_whole(named) says why a call with these cannot be taken apart, or nothing.

    name: of the technique. Raises ValueError for a U-Net that is not of the known kind.
    """
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
    from diffusers.utils.peft_utils import apply_lora_scale

    first, last = unet.down_blocks[0], unet.up_blocks[-1]
    if not ends_are_known(unet):
        kinds = sorted({type(first).__name__, type(last).__name__})
        raise ValueError(f"{name}: blocks of the kinds {kinds} are unknown")
    if unet.class_embedding is not None or unet.config.addition_embed_type == "image_hint":
        raise ValueError(f"{name}: U-Nets with class labels or image hints are not supported")
    if branch >= len(last.resnets) or branch > len(first.resnets):
        raise ValueError(f"{name}: branch {branch} does not exist in this U-Net")
    # Layers of the last up block take skip connections from the highest number down to 0.
    resume = len(last.resnets) - 1 - branch

    def layer(block: Any, number: int, hidden: Any, emb: Any, prompt: Any, cross_attention_kwargs: Any) -> Any:
        hidden = block.resnets[number](hidden, emb)
        if getattr(block, "has_cross_attention", False):
            hidden = block.attentions[number](
                hidden, encoder_hidden_states=prompt, cross_attention_kwargs=cross_attention_kwargs, return_dict=False
            )[0]
        return hidden

    def head(
        sample: Any, timestep: Any, encoder_hidden_states: Any, added_cond_kwargs: Any, cross_attention_kwargs: Any
    ) -> tuple[Any, Any, Any]:
        """As UNet2DConditionModel.forward() begins."""
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
        skips = [unet.conv_in(sample)]
        for number in range(branch):
            skips.append(layer(first, number, skips[-1], emb, prompt, cross_attention_kwargs))
        return tuple(skips), emb, prompt

    def middle(skips: Any, emb: Any, prompt: Any, cross_attention_kwargs: Any) -> Any:
        odd = any(side % 2**unet.num_upsamplers for side in skips[0].shape[-2:])
        attention = {"encoder_hidden_states": prompt, "cross_attention_kwargs": cross_attention_kwargs}
        skips = list(skips)
        for number in range(branch, len(first.resnets)) if branch else ():
            skips.append(layer(first, number, skips[-1], emb, prompt, cross_attention_kwargs))
        hidden = skips[-1]
        for downsampler in (first.downsamplers or ()) if branch else ():
            hidden = downsampler(hidden)
            skips.append(hidden)
        # As a whole where no layer of it has run, so that hooks on it run.
        for block in unet.down_blocks[1:] if branch else unet.down_blocks:
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
        return hidden

    def tail(skips: Any, emb: Any, prompt: Any, cross_attention_kwargs: Any, deep: Any) -> Any:
        hidden = deep
        for number in range(resume, len(last.resnets)):
            hidden = torch.cat([hidden, skips[len(last.resnets) - 1 - number]], dim=1)
            hidden = layer(last, number, hidden, emb, prompt, cross_attention_kwargs)
        if unet.conv_norm_out:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        return unet.conv_out(hidden)

    def full(
        sample: Any, timestep: Any, encoder_hidden_states: Any, added_cond_kwargs: Any, cross_attention_kwargs: Any
    ) -> tuple[Any, Any]:
        begun = head(sample, timestep, encoder_hidden_states, added_cond_kwargs, cross_attention_kwargs)
        deep = middle(*begun, cross_attention_kwargs)
        return tail(*begun, cross_attention_kwargs, deep), deep

    def shallow(
        sample: Any,
        timestep: Any,
        encoder_hidden_states: Any,
        added_cond_kwargs: Any,
        cross_attention_kwargs: Any,
        deep: Any,
    ) -> Any:
        begun = head(sample, timestep, encoder_hidden_states, added_cond_kwargs, cross_attention_kwargs)
        return tail(*begun, cross_attention_kwargs, deep)

    def call(compute: Any) -> Any:
        """compute(inputs, *more) -> noise, where `inputs` are the arguments of head, as (named, *more) -> what
        unet.forward(**named) returns.
        """

        def dispatch(
            self: Any,
            more: Any,
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
            inputs = (sample, timestep, encoder_hidden_states, added_cond_kwargs, cross_attention_kwargs)
            noise = compute(inputs, *more)
            return UNet2DConditionOutput(sample=noise) if return_dict else (noise,)

        # Scales LoRA layers by cross_attention_kwargs["scale"], as the original forward() does.
        scaled = apply_lora_scale("cross_attention_kwargs")(dispatch)
        return lambda named, *more: scaled(
            unet, more, **{name: value for name, value in named.items() if value is not None}
        )

    def why_whole(named: Any) -> str:
        known = {"sample", "timestep", "encoder_hidden_states", "cross_attention_kwargs", "added_cond_kwargs"}
        others = [each for each, value in named.items() if each not in {*known, "return_dict"} and value is not None]
        if others:
            # ControlNet, T2I-Adapter, attention masks and the like reach layers that a cached step leaves out.
            return f"the U-Net was called with {', '.join(others)}"
        if (named.get("cross_attention_kwargs") or {}).get("gligen") is not None:
            return "the U-Net was called with boxes for GLIGEN"
        for block in (first, last) if branch else (last,):
            if block._forward_hooks or block._forward_pre_hooks or "forward" in vars(block):
                return f"a hook sits on a {type(block).__name__} whose layers are called one by one, past the hook"
        if last.resolution_idx in (0, 1) and getattr(last, "s1", None):
            return "FreeU changes what the last block does"
        return ""

    return {
        "head": head,
        "middle": middle,
        "tail": tail,
        "full": full,
        "shallow": shallow,
        "call": call,
        "why_whole": why_whole,
    }


def unet_refusal(pipelines: Any, branch: int) -> str | None:
    """Why a pipeline's denoiser cannot be taken apart by unet_parts, from its description; None when it can."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for unet in found:
        if not unet.is_unet:
            return f"the denoiser is a transformer ({unet.class_name}), without the skip connections of a U-Net"
        if unet.class_name != "UNet2DConditionModel":
            return f"a U-Net of the kind {unet.class_name} is unknown"
        if not unet.ends_are_known:
            return "blocks like the U-Net's first and last one are unknown"
        if unet.layers_per_block is not None and branch > unet.layers_per_block:
            return f"the U-Net has no skip connection {branch} in its first block"
    return None


UNET_PARTS = (ends_are_known, unet_parts)
"""What a technique that calls unet_parts() names among its helpers."""
