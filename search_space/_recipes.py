"""Whole configurations that are known to be strong: a search measures them first.

One list serves every device and every kind of pipeline: what is refused there, or lies outside of a study's space, is
left out of a recipe, and what is left is tried as long as it is something and clashes with nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ._configuration import Configuration
from ._patience import patience
from ._rules import impossible
from ._space import SearchSpace
from ._target import PipelineFacts, Target
from ._technique import Trait
from ._techniques import technique


class Goal(StrEnum):
    """What a recipe is good for."""

    BASELINE = "baseline"
    """What torch.compile alone reaches: the others are compared with it."""
    LOSSLESS = "lossless"
    NEAR_LOSSLESS = "near-lossless"
    FASTEST = "fastest"
    """With a step cache so coarse that one's own weights decide whether its pictures are good enough."""
    LEAST_MEMORY = "least memory"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A configuration before it is fitted to a device, a pipeline and a space."""

    name: str
    goal: Goal
    techniques: Mapping[str, Mapping[str, Any]]
    source: str
    """Who describes it, or where it was measured."""

    def fitted(
        self, space: SearchSpace, target: Target, pipelines: Mapping[str, PipelineFacts]
    ) -> Configuration | None:
        """What of it can be used there; None when that is nothing, or when it is known not to work."""
        kept: dict[str, Mapping[str, Any]] = {}
        adapters = any(pipeline.adapters for pipeline in pipelines.values())
        for name, parameters in self.techniques.items():
            alone, known = Configuration.of({name: parameters}), technique(name)
            refused = known.why_not(target, pipelines, alone.steps[0].parameters)
            # Where adapters bring attention processors of their own, others would make the whole recipe impossible.
            own = adapters and Trait.REPLACES_PROCESSORS in known.traits_with(alone.steps[0].parameters)
            if refused is None and not own and alone in space:
                kept[name] = parameters
        configuration = Configuration.of(kept)
        if not kept or impossible(configuration, target, pipelines) is not None:
            return None
        return configuration


_DIFFUSION_FAST = "https://pytorch.org/blog/accelerating-generative-ai-3/"
_CUDA_GRAPHS = "https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/"
_DEEPCACHE = "https://arxiv.org/abs/2312.00858"
_MEMORY = "https://huggingface.co/docs/diffusers/optimization/memory"
_COMPILED: Mapping[str, Any] = {
    "torch_compile": {"region": "whole", "mode": "default"},
    "torch_compile_vae": {"parts": "decoder", "mode": "default"},
}
_ARRANGED: Mapping[str, Any] = {"cudnn_benchmark": {}, "fused_qkv": {}, "channels_last": {}}
_GRAPHS: Mapping[str, Any] = {
    # Where adapters come and go, so that nothing is recorded again; refused elsewhere, and so left out.
    "ip_adapter_swap": {"how": "in_place"},
    "lora_merge": {},
    "cuda_graphs": {"modules": "denoiser_vae_text"},
}
_EXACT_VAE: Mapping[str, Any] = {"vae_dtype": {"dtype": "float32"}}
_SHORT_VAE: Mapping[str, Any] = {"vae_dtype": {"dtype": "bfloat16"}}


def _deepcache(interval: int, full_percent: int) -> Mapping[str, Any]:
    return {"deepcache": {"interval": interval, "branch": 0, "full_percent": full_percent}}


RECIPES: tuple[Recipe, ...] = (
    # Seconds each.
    Recipe(
        name="graphs",
        goal=Goal.LOSSLESS,
        techniques={**_EXACT_VAE, **_GRAPHS},
        source=_CUDA_GRAPHS,
    ),
    Recipe(
        name="graphs with a step cache",
        goal=Goal.NEAR_LOSSLESS,
        techniques={**_SHORT_VAE, **_ARRANGED, **_deepcache(2, 50), **_GRAPHS},
        source=_DEEPCACHE,
    ),
    Recipe(
        name="graphs with a coarse step cache",
        goal=Goal.FASTEST,
        techniques={**_SHORT_VAE, **_ARRANGED, **_deepcache(5, 0), **_GRAPHS},
        source=_DEEPCACHE,
    ),
    Recipe(
        name="16 bits with a step cache",
        goal=Goal.NEAR_LOSSLESS,
        techniques={"dtype": {"dtype": "bfloat16"}, "fused_qkv": {}, **_deepcache(2, 50)},
        source=_DEEPCACHE,
    ),
    # Minutes each.
    Recipe(
        name="compiled graphs",
        goal=Goal.LOSSLESS,
        techniques={**_EXACT_VAE, **_ARRANGED, **_COMPILED, **_GRAPHS},
        source=_DIFFUSION_FAST,
    ),
    Recipe(
        name="compiled graphs with a step cache",
        goal=Goal.NEAR_LOSSLESS,
        techniques={**_SHORT_VAE, **_ARRANGED, **_deepcache(2, 0), **_COMPILED, **_GRAPHS},
        source=_DEEPCACHE,
    ),
    Recipe(
        name="compiled graphs with a coarse step cache",
        goal=Goal.FASTEST,
        techniques={**_SHORT_VAE, **_ARRANGED, **_deepcache(5, 0), **_COMPILED, **_GRAPHS},
        source=_DEEPCACHE,
    ),
    Recipe(
        name="torch.compile at its best",
        goal=Goal.BASELINE,
        techniques={
            "channels_last": {},
            "torch_compile": {"region": "whole", "mode": "reduce-overhead"},
        },
        source="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    ),
    # Slower than the unchanged pipeline. Those that lose nothing come first.
    Recipe(
        name="what waits for its turn in main memory",
        goal=Goal.LEAST_MEMORY,
        techniques={"vae_slicing": {}, "text_encoder_offload": {}},
        source=_MEMORY,
    ),
    Recipe(
        name="weights that arrive in time",
        goal=Goal.LEAST_MEMORY,
        techniques={
            "vae_slicing": {},
            "group_offload": {"level": "block_level", "use_stream": True},
            "text_encoder_offload": {},
        },
        source=_MEMORY,
    ),
    Recipe(
        name="one module on the GPU at a time",
        goal=Goal.LEAST_MEMORY,
        techniques={"vae_slicing": {}, "vae_tiling": {}, "model_offload": {}},
        source=_MEMORY,
    ),
    Recipe(
        name="8-bit weights",
        goal=Goal.LEAST_MEMORY,
        techniques={"torchao_quantization": {"scheme": "int8_weight_only"}, "vae_slicing": {}, "vae_tiling": {}},
        source="https://huggingface.co/docs/diffusers/quantization/torchao",
    ),
)
"""In the order in which they are measured: what answers in seconds before what compiles for minutes."""


def is_quick(recipe: Recipe, configuration: Configuration) -> bool:
    """Whether a recipe that was fitted is tried at once: it answers in seconds, and may be fast. The measurements of
    those that are tell which of the others is worth its time first.
    """
    return recipe.goal is not Goal.LEAST_MEMORY and patience(configuration) == 1


def fitting_recipes(
    space: SearchSpace, target: Target, pipelines: Mapping[str, PipelineFacts]
) -> Iterator[tuple[Recipe, Configuration]]:
    """The recipes that can be used there, each with its configuration, without repetitions."""
    seen: set[Configuration] = set()
    for recipe in RECIPES:
        configuration = recipe.fitted(space, target, pipelines)
        if configuration is not None and configuration not in seen:
            seen.add(configuration)
            yield recipe, configuration
