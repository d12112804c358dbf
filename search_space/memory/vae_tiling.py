"""The VAE decodes large pictures tile by tile."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import torch_modules, vaes
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique


class VaeTilingParameters(Parameters):
    """tile_px: side of a tile; "default" is the size of the pictures that the VAE was trained on."""

    tile_px: Literal["default", 256, 384, 512, 768] = "default"


def vae_tiling(pipelines: dict[str, Any], *, tile_px: Any) -> None:
    """Decode in overlapping tiles, blended where they overlap."""
    for vae in vaes(pipelines):
        if tile_px != "default":
            shrinks_by = 2 ** (len(vae.config.block_out_channels) - 1)
            vae.tile_sample_min_size = tile_px
            vae.tile_latent_min_size = tile_px // shrinks_by
        vae.enable_tiling()


def took_effect(pipelines: dict[str, Any], *, tile_px: Any) -> str | None:
    """Whether the VAEs are set so."""
    for vae in vaes(pipelines):
        if not getattr(vae, "use_tiling", False):
            return "the VAE decodes whole pictures"
        if tile_px not in ("default", getattr(vae, "tile_sample_min_size", None)):
            return f"the VAE's tiles have a side of {vae.tile_sample_min_size} px"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: VaeTilingParameters) -> str | None:
    """Workloads in which it changes nothing, and VAEs whose tiles have other names for their size."""
    with_vae = [pipeline for pipeline in pipelines.values() if pipeline.vaes]
    if not with_vae:
        return "no pipeline has a VAE"
    wanted = parameters.tile_px
    sizes = [(vae, pipeline.largest_side_px) for pipeline in with_vae for vae in pipeline.vaes]
    for vae, _ in sizes:
        if wanted != "default" and vae.tile_side_px is None:
            return f"the size of the tiles of the VAE, a {vae.class_name}, cannot be chosen"
    if wanted != "default" and all(vae.tile_side_px == wanted for vae, _ in sizes):
        return f"the VAE's tiles have a side of {wanted} px already"
    tiles = [(vae.tile_side_px if wanted == "default" else wanted, side_px) for vae, side_px in sizes]
    if not any(tile is None or side_px > tile for tile, side_px in tiles):
        return "every picture fits into one tile"
    return None


TECHNIQUE = Technique(
    name="vae_tiling",
    axis=Axis.MEMORY,
    loss=Loss.APPROXIMATE,  # tiles do not see each other: colours may shift between them
    summary="Decodes large pictures in overlapping tiles: the VAE's memory no longer grows with the picture.",
    source="https://huggingface.co/docs/diffusers/optimization/memory#vae-tiling",
    parameters=VaeTilingParameters,
    apply=vae_tiling,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    roles=frozenset({Role.VAE}),
    helpers=(torch_modules, vaes),
)
