"""Which techniques cannot be combined, and why: the one place that says so.

Each rule names its techniques and, where only some parameters clash, a predicate over those parameters. A rule stands
for something that was seen to fail, or that a library's code refuses; combinations nobody has tried are tried.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ._configuration import Configuration
from ._target import PipelineFacts, Target
from ._techniques import technique

Chosen = Mapping[str, Mapping[str, Any]]
"""{technique: {parameter: value}} of one configuration."""


def _always(chosen: Chosen, target: Target, pipelines: Mapping[str, PipelineFacts]) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """These techniques together do not work (when `clash` says so), because of `reason`."""

    techniques: tuple[str, ...]
    reason: str
    clash: Callable[[Chosen, Target, Mapping[str, PipelineFacts]], bool] = _always


def unet_dtype(chosen: Chosen, pipelines: Mapping[str, PipelineFacts]) -> str:
    """The U-Net's dtype once `chosen` is applied, "unknown" when nothing says it."""
    if "dtype" in chosen:
        return str(chosen["dtype"]["dtype"])
    return next((p.modules["unet"].dtype for p in pipelines.values() if "unet" in p.modules), "unknown")


def _graphs_the_decoder(chosen: Chosen) -> bool:
    return chosen["torch_compile"]["mode"] == "reduce-overhead" and bool(chosen["torch_compile"]["vae_decoder"])


RULES: tuple[Rule, ...] = (
    Rule(("model_offload", "group_offload"), "diffusers refuses two kinds of offload on one pipeline"),
    Rule(
        ("torchao_quantization", "torch_compile", "model_offload"),
        "torch cannot move a compiled module whose weights are quantized tensors",
    ),
    Rule(
        ("torchao_quantization", "torch_compile", "group_offload"),
        "torch cannot move a compiled module whose weights are quantized tensors",
    ),
    Rule(
        ("torchao_quantization", "torch_compile"),
        "loading an adapter moves the U-Net, and torch cannot move a compiled module whose weights are quantized",
        lambda chosen, target, pipelines: any(pipeline.adapters for pipeline in pipelines.values()),
    ),
    Rule(
        ("fused_qkv",),
        "an adapter that is loaded later is ignored by fused projections, or breaks them",
        lambda chosen, target, pipelines: any(pipeline.adapters for pipeline in pipelines.values()),
    ),
    Rule(
        ("torch_compile", "vae_slicing"),
        "diffusers keeps the decoder's slices at once, and CUDA graphs write each over the one before",
        lambda chosen, target, pipelines: _graphs_the_decoder(chosen),
    ),
    Rule(
        ("torch_compile", "vae_tiling"),
        "diffusers keeps the decoder's tiles at once, and CUDA graphs write each over the one before",
        lambda chosen, target, pipelines: _graphs_the_decoder(chosen),
    ),
    Rule(
        ("torch_compile", "model_offload"),
        "CUDA graphs need weights at fixed addresses, and offload moves them",
        lambda chosen, target, pipelines: chosen["torch_compile"]["mode"] == "reduce-overhead",
    ),
    Rule(
        ("torch_compile", "group_offload"),
        "group offload hooks sit inside the graph: only regional compilation with block-level groups works",
        lambda chosen, target, pipelines: (
            chosen["torch_compile"]["region"] == "whole"
            or chosen["torch_compile"]["mode"] == "reduce-overhead"
            or chosen["group_offload"]["level"] == "leaf_level"
        ),
    ),
    Rule(
        ("deepcache", "group_offload"),
        "a shallow step calls single layers of a block, which the block's offload hook does not bring to the device",
    ),
    Rule(
        ("torchao_quantization",),
        "row-wise float8 needs bfloat16 weights",
        lambda chosen, target, pipelines: (
            chosen["torchao_quantization"]["scheme"] == "float8_dynamic_row"
            and unet_dtype(chosen, pipelines) not in ("bfloat16", "unknown")
        ),
    ),
    Rule(
        ("sdpa_kernel",),
        "flash and cuDNN attention need 16-bit numbers on a GPU",
        lambda chosen, target, pipelines: (
            target.device == "cuda"
            and chosen["sdpa_kernel"]["unet"] in ("flash", "cudnn")
            and unet_dtype(chosen, pipelines) == "float32"
        ),
    ),
)


def impossible(configuration: Configuration, target: Target, pipelines: Mapping[str, PipelineFacts]) -> str | None:
    """Why this configuration is known not to work there, in one sentence; None when it may be tried."""
    chosen = {step.technique: step.values() for step in configuration.steps}
    for step in configuration.steps:
        reason = technique(step.technique).why_not(target, pipelines, step.parameters)
        if reason is not None:
            return f"{step.technique}: {reason}"
    for rule in RULES:
        if all(name in chosen for name in rule.techniques) and rule.clash(chosen, target, pipelines):
            return f"{' with '.join(rule.techniques)}: {rule.reason}"
    return None
