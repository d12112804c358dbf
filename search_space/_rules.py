"""Which techniques cannot be combined, and why: the one place that says so.

Each rule names techniques, or traits that any technique may have, and, where not every such combination clashes, says
which do. A rule stands for something that was seen to fail, or that a library's code refuses; combinations that nobody
has tried are allowed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ._configuration import Configuration
from ._target import PipelineFacts, Target
from ._technique import Trait
from ._techniques import technique


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration on one device: what a rule looks at."""

    chosen: Mapping[str, Mapping[str, Any]]
    """{technique: {parameter: value}}, in the order of application."""
    traits: Mapping[str, frozenset[Trait]]
    """Of each technique, with its parameters."""
    target: Target
    pipelines: Mapping[str, PipelineFacts]

    @classmethod
    def of(cls, configuration: Configuration, target: Target, pipelines: Mapping[str, PipelineFacts]) -> "Case":
        """With the traits looked up."""
        chosen = {step.technique: step.values() for step in configuration.steps}
        traits = {
            step.technique: technique(step.technique).traits_with(step.parameters) for step in configuration.steps
        }
        return cls(chosen=chosen, traits=traits, target=target, pipelines=pipelines)

    def has(self, trait: Trait) -> bool:
        """Whether any technique has the trait."""
        return any(trait in traits for traits in self.traits.values())

    def several(self, trait: Trait) -> bool:
        """Whether more than one technique has the trait."""
        return sum(trait in traits for traits in self.traits.values()) > 1

    @property
    def adapters(self) -> bool:
        """Whether any request loads or unloads adapters."""
        return any(pipeline.adapters for pipeline in self.pipelines.values())

    @property
    def denoiser_dtype(self) -> str:
        """The denoiser's dtype once everything is applied, "unknown" when nothing says it."""
        if "dtype" in self.chosen:
            return str(self.chosen["dtype"]["dtype"])
        return next((denoiser.dtype for p in self.pipelines.values() for denoiser in p.denoisers), "unknown")

    @property
    def graphs_the_decoder(self) -> bool:
        """Whether torch.compile records the VAE's decoder in CUDA graphs."""
        compiled = self.chosen.get("torch_compile", {"mode": None, "vae_decoder": False})
        return compiled["mode"] == "reduce-overhead" and bool(compiled["vae_decoder"])

    @property
    def graphs_a_moving_vae(self) -> bool:
        """Whether the VAE's decoder is recorded, and its pipeline converts it in each call."""
        if "vae_dtype" in self.chosen or self.chosen["cuda_graphs"]["modules"] == "denoiser":
            return False
        found = [vae for pipeline in self.pipelines.values() for vae in pipeline.vaes]
        dtypes = [self.chosen["dtype"]["dtype"]] if "dtype" in self.chosen else [vae.dtype for vae in found]
        return "float16" in dtypes and any(vae.force_upcast for vae in found)


def _always(case: Case) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """These together do not work (where `clash` says so), because of `reason`.

    together: techniques by name, or traits; a trait stands for every technique of the configuration that has it, and
    one technique may have several of them.
    """

    together: tuple[str | Trait, ...]
    reason: str
    clash: Callable[[Case], bool] = _always

    def refuses(self, case: Case) -> str | None:
        """The reason with the techniques it is about before it, or None."""
        found: list[str] = []
        for part in self.together:
            by_trait = isinstance(part, Trait)
            matching = [name for name, traits in case.traits.items() if (part in traits if by_trait else part == name)]
            if not matching:
                return None
            found += matching
        return f"{' with '.join(dict.fromkeys(found))}: {self.reason}" if self.clash(case) else None


RULES: tuple[Rule, ...] = (
    Rule(("model_offload", "group_offload"), "diffusers refuses two kinds of offload on one pipeline"),
    Rule(
        (Trait.QUANTIZES, Trait.COMPILES, Trait.MOVES_WEIGHTS),
        "torch cannot move a compiled module whose weights are quantized tensors",
    ),
    Rule(
        (Trait.QUANTIZES, Trait.COMPILES),
        "loading an adapter moves the denoiser, and torch cannot move a compiled module whose weights are quantized",
        lambda case: case.adapters,
    ),
    Rule(
        (Trait.REPLACES_PROCESSORS,),
        "an adapter that is loaded later brings attention processors of its own: it is ignored, or it undoes these",
        lambda case: case.adapters,
    ),
    Rule(
        ("torch_compile", "vae_slicing"),
        "diffusers keeps the decoder's slices at once, and CUDA graphs write each over the one before",
        lambda case: case.graphs_the_decoder,
    ),
    Rule(
        ("torch_compile", "vae_tiling"),
        "diffusers keeps the decoder's tiles at once, and CUDA graphs write each over the one before",
        lambda case: case.graphs_the_decoder,
    ),
    Rule(
        (Trait.COMPILES, "group_offload"),
        "group offload hooks sit inside the graph: only regional compilation with block-level groups works",
        lambda case: case.has(Trait.COMPILES_WHOLE) or case.chosen["group_offload"]["level"] == "leaf_level",
    ),
    Rule(
        (Trait.CUDA_GRAPHS, Trait.MOVES_WEIGHTS),
        "CUDA graphs need weights at fixed addresses, and offload moves them",
    ),
    Rule(
        ("cuda_graphs", "torch_compile"),
        "torch.compile records CUDA graphs itself in that mode",
        lambda case: case.chosen["torch_compile"]["mode"] == "reduce-overhead",
    ),
    Rule(
        ("cuda_graphs",),
        "the pipeline converts a float16 VAE to float32 in each call, so its weights move: choose vae_dtype as well",
        lambda case: case.graphs_a_moving_vae,
    ),
    Rule(
        (Trait.CACHES_STEPS,),
        "each would take for computed what the other has left out: one step cache at a time",
        lambda case: case.several(Trait.CACHES_STEPS),
    ),
    Rule(
        ("deepcache", Trait.CACHES_STEPS),
        "each would take for computed what the other has left out: one step cache at a time",
    ),
    Rule(("guidance_cutoff", Trait.GUIDES_LESS), "both decide in which steps there is guidance: choose one"),
    Rule(
        ("faster_cache", Trait.GUIDES_LESS),
        "both leave out the unprompted half of the batch, and FasterCache would halve what is left",
    ),
    Rule(
        (Trait.HOOKS_LAYERS, Trait.COMPILES),
        "the hooks count steps inside of the graphs, which would be compiled anew in every step",
    ),
    Rule(
        (Trait.HOOKS_LAYERS, Trait.CUDA_GRAPHS),
        "a recording would repeat what the hooks decided in the step that was recorded",
    ),
    Rule(
        ("prompt_embedding_cache", Trait.MOVES_WEIGHTS),
        "where weights move, it cannot be seen that the text encoders are still the same",
    ),
    Rule(
        (Trait.CALLS_INNER_LAYERS, "group_offload"),
        "single layers of a block are called, which the block's offload hook does not bring to the device",
    ),
    Rule(
        ("torchao_quantization",),
        "row-wise float8 needs bfloat16 weights",
        lambda case: (
            case.chosen["torchao_quantization"]["scheme"] == "float8_dynamic_row"
            and case.denoiser_dtype not in ("bfloat16", "unknown")
        ),
    ),
    Rule(
        ("sdpa_kernel",),
        "flash and cuDNN attention need 16-bit numbers on a GPU",
        lambda case: (
            case.target.device == "cuda"
            and case.chosen["sdpa_kernel"]["unet"] in ("flash", "cudnn")
            and case.denoiser_dtype == "float32"
        ),
    ),
)


def impossible(configuration: Configuration, target: Target, pipelines: Mapping[str, PipelineFacts]) -> str | None:
    """Why this configuration is known not to work there, in one sentence; None when it may be tried."""
    for step in configuration.steps:
        reason = technique(step.technique).why_not(target, pipelines, step.parameters)
        if reason is not None:
            return f"{step.technique}: {reason}"
    case = Case.of(configuration, target, pipelines)
    return next((reason for rule in RULES if (reason := rule.refuses(case)) is not None), None)
