"""Whole configurations that are known to be strong: a search measures them first.

One list serves every device and every kind of pipeline: what is refused there, or lies outside of a study's space, is
left out of a recipe, and what is left is tried as long as it is something, is still what the recipe is about, and
clashes with nothing.
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
    needs: tuple[str, ...] = ()
    """The techniques that it is about: where one of them cannot be used, what is left is no such recipe."""
    for_transformers: bool = False
    """Whether it is tried only where no denoiser is a U-Net; one for U-Nets `needs` what a transformer refuses."""

    def fitted(
        self, space: SearchSpace, target: Target, pipelines: Mapping[str, PipelineFacts]
    ) -> Configuration | None:
        """What of it can be used there; None when that is nothing, or when it is known not to work."""
        denoisers = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
        if self.for_transformers and any(denoiser.is_unet for denoiser in denoisers):
            return None
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
        if not kept or not set(self.needs) <= kept.keys():
            return None
        if impossible(configuration, target, pipelines) is not None:
            return None
        return configuration


_DIFFUSION_FAST = "https://pytorch.org/blog/accelerating-generative-ai-3/"
_CUDA_GRAPHS = "https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/"
_DEEPCACHE = "https://arxiv.org/abs/2312.00858"
_FORECAST = "https://arxiv.org/abs/2603.01623"
_MEMORY = "https://huggingface.co/docs/diffusers/optimization/memory"
_COMPILED: Mapping[str, Any] = {
    "torch_compile": {"region": "whole", "mode": "default"},
    "torch_compile_vae": {"parts": "decoder", "mode": "default"},
}
_BESIDE: Mapping[str, Any] = {"torch_compile_modules": {"mode": "default"}, "cuda_graphs_modules": {}}
"""What stands beside the pipelines. In recipes of their own: code that waits for the GPU cannot be recorded."""
_ARRANGED: Mapping[str, Any] = {"cudnn_benchmark": {}, "fused_qkv": {}, "channels_last": {}}
_GRAPHS: Mapping[str, Any] = {
    # Where adapters come and go, so that nothing is recorded again; refused elsewhere, and so left out.
    "ip_adapter_swap": {"how": "in_place"},
    "lora_merge": {},
    "cuda_graphs": {"modules": "denoiser_vae_text"},
}
_EXACT_VAE: Mapping[str, Any] = {"vae_dtype": {"dtype": "float32"}}
_SHORT_VAE: Mapping[str, Any] = {"vae_dtype": {"dtype": "bfloat16"}}


_SIXTEEN_BITS: Mapping[str, Any] = {"dtype": {"dtype": "bfloat16"}, "fused_qkv": {}}
_EVERY_SECOND: Mapping[str, Any] = {
    "forecast_cache": {"interval": 2, "order": 2, "first_percent": 20, "forecast": "output"}
}
_FINE = (2, 10)
_COARSE = (4, 20)
"""For transformers: one step in so many is computed, and all of the first so many percent."""


def _with_step_cache(
    name: str, goal: Goal, others: Mapping[str, Any], *, deepcache: tuple[int, int], forecast: tuple[int, int]
) -> tuple[Recipe, Recipe]:
    """A recipe for U-Nets, and the same for transformers, whose whole answer is forecast: that goes with compilers and
    CUDA graphs, and diffusers' caches for transformers do not.
    """
    unets = {"interval": deepcache[0], "branch": 0, "full_percent": deepcache[1]}
    transformers = {"interval": forecast[0], "order": 1, "first_percent": forecast[1], "forecast": "output"}
    return (
        Recipe(
            name=name,
            goal=goal,
            techniques={**others, "deepcache": unets},
            source=_DEEPCACHE,
            needs=("deepcache",),
        ),
        Recipe(
            name=name,
            goal=goal,
            techniques={**others, "forecast_cache": transformers},
            source=_FORECAST,
            needs=("forecast_cache",),
            for_transformers=True,
        ),
    )


RECIPES: tuple[Recipe, ...] = (
    # Seconds each.
    Recipe(
        name="graphs",
        goal=Goal.LOSSLESS,
        techniques={**_EXACT_VAE, **_GRAPHS},
        source=_CUDA_GRAPHS,
    ),
    *_with_step_cache(
        "graphs with a step cache",
        Goal.NEAR_LOSSLESS,
        {**_SHORT_VAE, **_ARRANGED, **_GRAPHS},
        deepcache=(2, 50),
        forecast=_FINE,
    ),
    *_with_step_cache(
        "graphs with a coarse step cache",
        Goal.FASTEST,
        {**_SHORT_VAE, **_ARRANGED, **_GRAPHS},
        deepcache=(5, 0),
        forecast=_COARSE,
    ),
    Recipe(
        name="graphs with a forecast of every second step",
        goal=Goal.NEAR_LOSSLESS,
        techniques={**_SHORT_VAE, **_ARRANGED, **_GRAPHS, **_EVERY_SECOND},
        source=_FORECAST,
        needs=("forecast_cache",),
    ),
    *_with_step_cache(
        "16 bits with a step cache",
        Goal.NEAR_LOSSLESS,
        _SIXTEEN_BITS,
        deepcache=(2, 50),
        forecast=_FINE,
    ),
    # Minutes each.
    Recipe(
        name="compiled graphs, also beside the pipelines",
        goal=Goal.LOSSLESS,
        techniques={**_EXACT_VAE, **_ARRANGED, **_COMPILED, **_BESIDE, **_GRAPHS},
        needs=("cuda_graphs_modules",),
        source=_DIFFUSION_FAST,
    ),
    Recipe(
        name="compiled graphs with a step cache, also beside the pipelines",
        goal=Goal.NEAR_LOSSLESS,
        techniques={
            **_SHORT_VAE,
            **_ARRANGED,
            **_COMPILED,
            **_BESIDE,
            **_GRAPHS,
            "deepcache": {"interval": 2, "branch": 0, "full_percent": 0},
        },
        needs=("cuda_graphs_modules", "deepcache"),
        source=_DEEPCACHE,
    ),
    Recipe(
        name="compiled graphs",
        goal=Goal.LOSSLESS,
        techniques={**_EXACT_VAE, **_ARRANGED, **_COMPILED, **_GRAPHS},
        source=_DIFFUSION_FAST,
    ),
    *_with_step_cache(
        "compiled graphs with a step cache",
        Goal.NEAR_LOSSLESS,
        {**_SHORT_VAE, **_ARRANGED, **_COMPILED, **_GRAPHS},
        deepcache=(2, 0),
        forecast=_FINE,
    ),
    *_with_step_cache(
        "compiled graphs with a coarse step cache",
        Goal.FASTEST,
        {**_SHORT_VAE, **_ARRANGED, **_COMPILED, **_GRAPHS},
        deepcache=(5, 0),
        forecast=_COARSE,
    ),
    Recipe(
        name="compiled graphs with a forecast of every second step",
        goal=Goal.NEAR_LOSSLESS,
        techniques={**_SHORT_VAE, **_ARRANGED, **_COMPILED, **_GRAPHS, **_EVERY_SECOND},
        source=_FORECAST,
        needs=("forecast_cache",),
    ),
    Recipe(
        name="torch.compile at its best",
        goal=Goal.BASELINE,
        techniques={
            "channels_last": {},
            "torch_compile": {"region": "whole", "mode": "reduce-overhead"},
        },
        needs=("torch_compile",),
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
