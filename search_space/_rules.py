"""Which techniques cannot be combined, and why: the one place that says so.

Each rule names techniques, or traits that any technique may have, and, where not every such combination clashes, says
which do. A rule stands for something that was seen to fail, or that a library's code refuses; combinations that nobody
has tried are allowed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ._configuration import Configuration
from ._target import PipelineFacts, Role, Target
from ._technique import Trait
from ._techniques import technique
from .compiler.torch_compile import MODES_WITH_GRAPHS


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration on one device: what a rule looks at."""

    chosen: Mapping[str, Mapping[str, Any]]
    """{technique: {parameter: value}}, in the order of application."""
    traits: Mapping[str, frozenset[Trait]]
    """Of each technique, with its parameters."""
    roles: Mapping[str, frozenset[Role]]
    """The kinds of modules that each technique changes, with its parameters."""
    target: Target
    pipelines: Mapping[str, PipelineFacts]

    @classmethod
    def of(cls, configuration: Configuration, target: Target, pipelines: Mapping[str, PipelineFacts]) -> "Case":
        """With traits and roles looked up."""
        steps = [(step, technique(step.technique)) for step in configuration.steps]
        return cls(
            chosen={step.technique: step.values() for step, _ in steps},
            traits={known.name: known.traits_with(step.parameters) for step, known in steps},
            roles={known.name: known.roles_with(step.parameters) for step, known in steps},
            target=target,
            pipelines=pipelines,
        )

    def has(self, trait: Trait) -> bool:
        """Whether any technique has the trait."""
        return any(trait in traits for traits in self.traits.values())

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
    def vae_dtypes(self) -> set[str]:
        """The VAEs' dtypes once everything is applied: a VAE that pipelines convert in each call is in float32."""
        if "vae_dtype" in self.chosen:
            return {str(self.chosen["vae_dtype"]["dtype"])}
        found = [vae for pipeline in self.pipelines.values() for vae in pipeline.vaes]
        dtypes = {vae: str(self.chosen["dtype"]["dtype"]) if "dtype" in self.chosen else vae.dtype for vae in found}
        return {"float32" if vae.force_upcast and dtype == "float16" else dtype for vae, dtype in dtypes.items()}

    @property
    def has_moving_vae(self) -> bool:
        """Whether pipelines convert the VAE in each call."""
        if "vae_dtype" in self.chosen:
            return False
        found = [vae for pipeline in self.pipelines.values() for vae in pipeline.vaes]
        dtypes = [self.chosen["dtype"]["dtype"]] if "dtype" in self.chosen else [vae.dtype for vae in found]
        return "float16" in dtypes and any(vae.force_upcast for vae in found)


def _always(case: Case) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """These together do not work on one kind of module (where `clash` says so), because of `reason`.

    together: techniques by name, or traits; a trait stands for every technique of the configuration that has it, and
    one technique may have several of them. A trait that is named twice takes two techniques.
    on: the kinds of modules that it is about.
    """

    together: tuple[str | Trait, ...]
    reason: str
    clash: Callable[[Case], bool] = _always
    on: tuple[Role, ...] = tuple(Role)

    def refuses(self, case: Case) -> str | None:
        """The reason with the techniques it is about before it, or None."""
        names = next((found for role in self.on if (found := self._on(case, role))), [])
        return f"{' with '.join(names)}: {self.reason}" if names and self.clash(case) else None

    def _on(self, case: Case, role: Role) -> list[str]:
        """The techniques it is about that change modules of this role; none unless all parts of the rule are there."""
        found: list[str] = []
        for part in self.together:
            matching = [
                name
                for name, traits in case.traits.items()
                if role in case.roles[name] and (part in traits if isinstance(part, Trait) else part == name)
            ]
            if len(matching) < self.together.count(part):
                return []
            found += matching
        return list(dict.fromkeys(found))


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
    Rule(("lora_merge", "lora_hotswap"), "each takes the place of the other: choose one way for LoRAs"),
    Rule(
        ("lora_hotswap", Trait.QUANTIZES),
        "the layers of a LoRA are added after quantization, which PEFT does for few kinds of quantized weights",
    ),
    Rule(
        (Trait.WRITES_WEIGHTS, Trait.QUANTIZES),
        "a LoRA cannot be written into quantized weights, nor taken out of them",
    ),
    Rule(
        (Trait.WRITES_WEIGHTS, Trait.CASTS_WEIGHTS),
        "a LoRA that is written into 8 bits would be rounded away",
    ),
    Rule(
        (Trait.WRITES_WEIGHTS, Trait.MOVES_WEIGHTS),
        "weights that travel have copies elsewhere, into which a LoRA would not be written",
    ),
    Rule(
        (Trait.WRITES_WEIGHTS, "prompt_embedding_cache"),
        "a LoRA may change the text encoders in place, which the cache would not see",
    ),
    Rule((Trait.COMPILES, Trait.COMPILES), "two compilers cannot both take a module"),
    Rule(
        ("torch_compile_vae", "vae_slicing"),
        "diffusers keeps the decoder's slices at once, and CUDA graphs write each over the one before",
        lambda case: Trait.CUDA_GRAPHS in case.traits["torch_compile_vae"],
    ),
    Rule(
        ("torch_compile_vae", "vae_tiling"),
        "diffusers keeps the decoder's tiles at once, and CUDA graphs write each over the one before",
        lambda case: Trait.CUDA_GRAPHS in case.traits["torch_compile_vae"],
    ),
    Rule(
        (Trait.CASTS_WEIGHTS, Trait.COMPILES),
        "the conversion of each layer's weights would break the graph",
    ),
    Rule(
        (Trait.QUANTIZES, Trait.CASTS_WEIGHTS),
        "weights that are in 8 bits already would be rounded once more",
    ),
    Rule(
        (Trait.CASTS_WEIGHTS, Trait.CUDA_GRAPHS),
        "CUDA graphs need weights at fixed addresses, and each call converts them anew",
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
    Rule((Trait.CUDA_GRAPHS, Trait.CUDA_GRAPHS), "both record CUDA graphs of the same modules"),
    *(
        Rule(
            (recording,),
            "before torch.compile records, of whatever module, it frees what this technique's recordings compute in",
            lambda case: any(values.get("mode") in MODES_WITH_GRAPHS for values in case.chosen.values()),
        )
        for recording in ("cuda_graphs", "cuda_graphs_modules")
    ),
    Rule(
        (Trait.CUDA_GRAPHS,),
        "the pipeline converts a float16 VAE to float32 in each call, so its weights move: choose vae_dtype as well",
        lambda case: case.has_moving_vae,
        on=(Role.VAE,),
    ),
    Rule(
        (Trait.CACHES_STEPS, Trait.CACHES_STEPS),
        "each would take for computed what the other has left out: one step cache at a time",
    ),
    Rule((Trait.GUIDES_LESS, Trait.GUIDES_LESS), "both decide in which steps there is guidance: choose one"),
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
        ("attention_backend", "fused_qkv"),
        "each puts attention processors of its own in the place of the other's: sdpa_kernel goes with fused_qkv",
    ),
    Rule(
        ("attention_backend", "sdpa_kernel"),
        "both choose the kernel of the denoiser's attention",
        lambda case: case.chosen["sdpa_kernel"]["unet"] != "default",
    ),
    Rule(
        ("attention_backend",),
        "this kernel needs 16-bit numbers on a GPU",
        lambda case: (
            case.target.device == "cuda"
            and case.chosen["attention_backend"]["backend"]
            in ("_native_flash", "_native_cudnn", "flash", "_flash_3", "sage")
            and case.denoiser_dtype == "float32"
        ),
    ),
    Rule(
        ("tf32",),
        "nothing here multiplies in float32",
        lambda case: "float32" not in {case.denoiser_dtype, *case.vae_dtypes} and case.denoiser_dtype != "unknown",
    ),
    Rule(
        ("fp16_accumulation",),
        "the denoiser does not multiply in float16",
        lambda case: case.denoiser_dtype not in ("float16", "unknown"),
    ),
    Rule(
        (Trait.FREEZES_LAYERS,),
        "an adapter that is loaded after the first call would be ignored: the layers stay as they were then",
        lambda case: case.adapters,
    ),
    Rule(
        ("stable_fast", Trait.CACHES_STEPS),
        "tracing would keep the choice of the first step, to compute all or to reuse, for every step",
    ),
    Rule(("model_offload", "text_encoder_offload"), "model_offload moves the text encoders out already"),
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
