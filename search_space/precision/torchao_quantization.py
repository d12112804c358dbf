"""8-bit weights, or 8-bit weights and activations, in the denoiser's transformer blocks."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class TorchaoQuantizationParameters(Parameters):
    """scheme: weight_only saves memory and computes in the denoiser's dtype; dynamic quantizes activations on the fly
    too, with one scale for a whole tensor or one for each row, and uses the 8-bit matrix units.
    """

    scheme: Literal[
        "int8_weight_only",
        "int8_dynamic",
        "float8_weight_only",
        "float8_dynamic_tensor",
        "float8_dynamic_row",
    ] = "int8_dynamic"


def torchao_quantization(pipelines: dict[str, Any], *, scheme: str) -> None:
    """Quantize the linear layers inside of transformer blocks: nearly all of the weight, and none of the small layers
    (time and size embeddings) whose shapes the 8-bit kernels refuse. Convolutions cannot be quantized this way.
    """
    import torch
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        PerRow,
        PerTensor,
        quantize_,
    )

    # By default torchao changes TorchInductor's settings for the whole process.
    untouched: dict[str, Any] = {"set_inductor_config": False}
    # The scale of a row of zeros would be 0, and the row NaN; SDXL's embedding of no negative prompt is nothing else.
    dynamic = {**untouched, "activation_value_lb": 1e-12}
    if scheme == "int8_weight_only":
        config = Int8WeightOnlyConfig(**untouched)
    elif scheme == "int8_dynamic":
        config = Int8DynamicActivationInt8WeightConfig(**untouched)
    elif scheme == "float8_weight_only":
        config = Float8WeightOnlyConfig(**untouched)
    elif scheme == "float8_dynamic_tensor":
        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerTensor(), **dynamic)
    else:
        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), **dynamic)

    def chosen(module: Any, name: str) -> bool:
        # IP-Adapter layers live in ".processor.": they are loaded and unloaded, and see a handful of tokens.
        return isinstance(module, torch.nn.Linear) and "transformer_blocks" in name and ".processor." not in name

    for denoiser in denoisers(pipelines):
        quantize_(denoiser, config, filter_fn=chosen)


def took_effect(pipelines: dict[str, Any], *, scheme: str) -> str | None:
    """Whether there are quantized weights. torchao leaves out layers whose shapes do not fit, and says nothing."""
    for denoiser in denoisers(pipelines):
        if not any(type(parameter).__module__.startswith("torchao") for parameter in denoiser.parameters()):
            return "no weight of the denoiser is quantized"
    return None


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TorchaoQuantizationParameters
) -> str | None:
    """Schemes without kernels on the device."""
    if not any(pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a denoiser"
    if parameters.scheme.startswith("float8_dynamic") and (target.device != "cuda" or target.sm() < 89):
        return "float8 matrix products need a CUDA device of compute capability 8.9"
    if parameters.scheme == "int8_dynamic" and target.device == "cuda" and target.sm() < 75:
        return "int8 matrix products need compute capability 7.5"
    return None


TECHNIQUE = Technique(
    name="torchao_quantization",
    axis=Axis.PRECISION,
    loss=Loss.APPROXIMATE,
    summary="Stores the denoiser's transformer weights in 8 bits and, by scheme, multiplies in 8 bits.",
    source="https://docs.pytorch.org/ao/stable/api_reference/api_ref_quantization.html",
    parameters=TorchaoQuantizationParameters,
    apply=torchao_quantization,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.QUANTIZATION,
    roles=frozenset({Role.DENOISER}),
    traits=frozenset({Trait.QUANTIZES}),
    helpers=(torch_modules, denoisers),
    packages=("torchao",),
)
