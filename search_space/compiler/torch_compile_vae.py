"""torch.compile of the VAE."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from .._compiled import COMPILED_HELPERS, compiled, not_compiled
from .._modules import torch_modules, vaes
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait
from .torch_compile import MODES_WITH_GRAPHS

ENCODING = re.compile("Img2Img|Inpaint|Edit|Kontext|Pix2Pix|Upscale|ImageVariation|Image2|ControlNet")
"""Pipelines that encode pictures, by their names."""


class TorchCompileVaeParameters(Parameters):
    """parts: the decoder, or the encoder as well, which pipelines that start from a picture call. mode:
    torch.compile's own.
    """

    parts: Literal["decoder", "decoder_encoder"] = "decoder"
    mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune"] = "default"


def torch_compile_vae(pipelines: dict[str, Any], *, parts: str, mode: str, artefacts: Any = None) -> None:
    """Compile the networks inside of the VAE: what is around them slices, tiles and converts."""
    for vae in vaes(pipelines):
        compiled(vae.decoder, "forward", artefacts, mode=mode)
        if parts == "decoder_encoder":
            compiled(vae.encoder, "forward", artefacts, mode=mode)


def took_effect(pipelines: dict[str, Any], *, parts: str, mode: str) -> str | None:
    """Whether the parts run compiled."""
    encoders = [vae.encoder for vae in vaes(pipelines)] if parts == "decoder_encoder" else []
    return not_compiled([*(vae.decoder for vae in vaes(pipelines)), *encoders])


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TorchCompileVaeParameters
) -> str | None:
    """Modes that need a GPU, pipelines without a VAE, and an encoder that nothing calls."""
    if target.device != "cuda" and parameters.mode != "default":
        return f"mode {parameters.mode} needs a CUDA device"
    found = [pipeline for pipeline in pipelines.values() if pipeline.vaes]
    if not found:
        return "no pipeline has a VAE"
    if parameters.parts == "decoder_encoder" and not any(ENCODING.search(each.class_name) for each in found):
        return "no pipeline encodes pictures"
    return None


def traits(parameters: TorchCompileVaeParameters) -> frozenset[Trait]:
    """What the mode adds to compiling."""
    graphs = {Trait.CUDA_GRAPHS} if parameters.mode in MODES_WITH_GRAPHS else set()
    return frozenset({Trait.COMPILES, *graphs})


TECHNIQUE = Technique(
    name="torch_compile_vae",
    axis=Axis.COMPILER,
    loss=Loss.REORDERED,
    summary="Compiles the VAE's decoder (and encoder) with TorchInductor.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    parameters=TorchCompileVaeParameters,
    apply=torch_compile_vae,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    traits=traits,
    roles=frozenset({Role.VAE}),
    adapters_later="LoRAs and IP-Adapters may be loaded after it.",
    helpers=(torch_modules, vaes, *COMPILED_HELPERS),
    artefacts=True,
)
