"""How techniques find modules: by role, once each, however many pipelines share them.

These functions are exported with the techniques that use them, so they use only public libraries and each other:
a technique names in its `helpers` the functions that it calls and `torch_modules`, which all of them call.
"""

from typing import Any


def torch_modules(pipeline: Any) -> dict[str, Any]:
    """{name: torch module} of what a workload calls a pipeline: a diffusers pipeline's components, or the attributes of
    any other object. A plain module has no name.
    """
    import torch

    if isinstance(pipeline, torch.nn.Module):
        return {"": pipeline}
    components = getattr(pipeline, "components", None)
    if not isinstance(components, dict):
        components = getattr(pipeline, "__dict__", {})
    return {name: module for name, module in components.items() if isinstance(module, torch.nn.Module)}


def denoisers(pipelines: dict[str, Any]) -> list[Any]:
    """The U-Nets and transformers: components called unet, transformer, transformer_2 and so on."""
    import re

    named = [item for pipeline in pipelines.values() for item in torch_modules(pipeline).items()]
    found = {id(module): module for name, module in named if re.fullmatch(r"(unet|transformer)(_\d+)?", name)}
    return list(found.values())


def vaes(pipelines: dict[str, Any]) -> list[Any]:
    """The autoencoders between pixels and latents: components called vae, vae_2 and so on."""
    import re

    named = [item for pipeline in pipelines.values() for item in torch_modules(pipeline).items()]
    found = {id(module): module for name, module in named if re.fullmatch(r"vae(_\d+)?", name)}
    return list(found.values())


def text_encoders(pipelines: dict[str, Any]) -> list[Any]:
    """The models that read prompts: components called text_encoder, text_encoder_2 and so on."""
    import re

    named = [item for pipeline in pipelines.values() for item in torch_modules(pipeline).items()]
    found = {id(module): module for name, module in named if re.fullmatch(r"text_encoder(_\d+)?", name)}
    return list(found.values())


def other_modules(pipelines: dict[str, Any]) -> list[Any]:
    """Every torch module that is none of these: image encoders, ControlNets, modules that are no part of a pipeline."""
    with_role = {id(module) for module in denoisers(pipelines) + vaes(pipelines) + text_encoders(pipelines)}
    modules = [module for pipeline in pipelines.values() for module in torch_modules(pipeline).values()]
    found = {id(module): module for module in modules if id(module) not in with_role}
    return list(found.values())


def user_modules(pipelines: dict[str, Any]) -> list[Any]:
    """The modules that stand beside the pipelines: entries themselves, or attributes of objects that are no pipelines.

    Modules that belong to a pipeline too are not among them.
    """
    import re

    beside: list[Any] = []
    inside: list[Any] = []
    for entry in pipelines.values():
        found = torch_modules(entry)
        denoising = any(re.fullmatch(r"(unet|transformer)(_\d+)?", name) for name in found)
        is_pipeline = isinstance(getattr(entry, "components", None), dict) or denoising
        (inside if is_pipeline else beside).extend(found.values())
    known = {id(module) for module in inside}
    return list({id(module): module for module in beside if id(module) not in known}.values())
