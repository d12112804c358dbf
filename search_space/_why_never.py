"""What a machine rules out, whatever the pipelines."""

from ._target import ModuleFacts, PipelineFacts, Role, Target
from ._technique import Technique

_UNET = ModuleFacts(
    class_name="UNet2DConditionModel",
    role=Role.DENOISER,
    dtype="float16",
    parameters_m=2567.0,
    fuses_qkv=True,
    has_repeated_blocks=True,
)
_VAE = ModuleFacts(class_name="AutoencoderKL", role=Role.VAE, dtype="float16", parameters_m=84.0, tile_side_px=512)
_PIPELINES = {
    "main": PipelineFacts(
        class_name="StableDiffusionXLPipeline",
        modules={"unet": _UNET, "vae": _VAE},
        largest_batch=4,
        largest_side_px=1024,
    )
}
"""In which every technique finds something to change."""


def why_never(known: Technique, target: Target) -> str | None:
    """Why a technique cannot run on a machine with any of its parameters; None when it can."""
    reasons = [known.why_not(target, _PIPELINES, parameters) for parameters in known.parameters.combinations()]
    return None if None in reasons else reasons[0]
