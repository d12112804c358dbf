"""What a machine rules out, whatever the pipelines; and the variants of a technique, one by one."""

from collections.abc import Iterator
from dataclasses import replace

from ._target import ModuleFacts, PipelineFacts, Role, Target
from ._technique import Parameters, Technique

_UNET = ModuleFacts(
    class_name="UNet2DConditionModel",
    role=Role.DENOISER,
    dtype="float16",
    parameters_m=2567.0,
    fuses_qkv=True,
    has_repeated_blocks=True,
    has_blocks=True,
    casts_layers=True,
)
_VAE = ModuleFacts(
    class_name="AutoencoderKL", role=Role.VAE, dtype="float16", parameters_m=84.0, tile_side_px=1024, force_upcast=True
)
_TEXT_ENCODER = ModuleFacts(class_name="CLIPTextModel", role=Role.TEXT_ENCODER, dtype="float32", parameters_m=123.0)
_WITH_UNET = {
    "main": PipelineFacts(
        class_name="StableDiffusionXLInpaintPipeline",
        modules={"unet": _UNET, "vae": _VAE, "text_encoder": _TEXT_ENCODER},
        largest_batch=4,
        largest_side_px=2048,
        adapters=True,
        adapter_kinds=("ip-adapter", "lora"),
    ),
    "upscaler": PipelineFacts(
        class_name="Upscaler",
        modules={"": ModuleFacts(class_name="Upscaler", role=Role.OTHER, dtype="float32", parameters_m=16.0)},
        beside=True,
    ),
}
"""In which every technique that U-Nets can have finds something to change."""
_TRANSFORMER = replace(_UNET, class_name="FluxTransformer2DModel", dispatches_attention=True)
_WITH_TRANSFORMER = {
    **_WITH_UNET,
    "main": replace(
        _WITH_UNET["main"],
        class_name="FluxPipeline",
        modules={**_WITH_UNET["main"].modules, "unet": _TRANSFORMER},
    ),
}


def why_not_on(known: Technique, target: Target, parameters: Parameters) -> str | None:
    """Why a technique cannot run on a machine with these parameters, whatever the pipelines; None when it can."""
    reason = known.why_not(target, _WITH_UNET, parameters)
    return None if reason is None or known.why_not(target, _WITH_TRANSFORMER, parameters) is None else reason


def why_never(known: Technique, target: Target) -> str | None:
    """Why a technique cannot run on a machine with any of its parameters; None when it can."""
    reasons = [why_not_on(known, target, parameters) for parameters in known.parameters.combinations()]
    return None if None in reasons else reasons[0]


DEVICES = (
    Target(device="cpu", name="a CPU"),
    *(
        Target(device="cuda", name=f"sm_{major}{minor}", compute_capability=(major, minor))
        for major, minor in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
    ),
)
"""Between them, they can do what any device can."""


def variants(known: Technique) -> Iterator[Parameters]:
    """The ways to use a technique that are worth naming: its defaults, and each of its other values with the defaults
    of the other parameters. Without what no device can do, or what would change nothing.
    """
    defaults = known.parameters()
    changed = [
        known.parameters(**{**defaults.model_dump(), name: value})
        for name, values in known.parameters.choices().items()
        for value in values
        if value != getattr(defaults, name)
    ]
    for parameters in (defaults, *changed):
        devices = (replace(device, packages=known.all_packages()) for device in DEVICES)
        if any(why_not_on(known, device, parameters) is None for device in devices):
            yield parameters
