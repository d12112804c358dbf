"""What a technique may know before anything is started: the device, and a description of the pipelines."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from ._modules import denoisers, text_encoders, torch_modules, user_modules, vaes
from ._unet_parts import ends_are_known


@dataclass(frozen=True, kw_only=True)
class Target:
    """The device that a study runs on."""

    device: str
    """"cuda" or "cpu"."""
    name: str
    compute_capability: tuple[int, int] | None = None
    memory_gib: float = 0.0
    """GiB of GPU memory; of main memory when there is no GPU."""
    packages: frozenset[str] = frozenset()
    """Installed packages that techniques may need, as pip names them."""
    cpu_has_bfloat16: bool = True
    """Whether the processor computes bfloat16 in vectors: x86 since AVX-512, Arm with the extension."""

    def lacks(self, dtype: str) -> str | None:
        """Why the device has no use for a number format, because it only emulates it; None where it computes it."""
        if self.device == "cuda":
            return "bfloat16 needs compute capability 8.0" if dtype == "bfloat16" and self.sm() < 80 else None
        if dtype == "float16":
            return "a CPU computes float16 many times slower than float32"
        if dtype == "bfloat16" and not self.cpu_has_bfloat16:
            return "this CPU computes bfloat16 many times slower than float32: it has no AVX-512 (on Arm, no bf16)"
        return None

    def sm(self) -> int:
        """The compute capability as one number, 89 for (8, 9); 0 without a GPU."""
        return self.compute_capability[0] * 10 + self.compute_capability[1] if self.compute_capability else 0


class Role(StrEnum):
    """What a module is for."""

    DENOISER = "denoiser"
    """A U-Net or a transformer."""
    VAE = "vae"
    TEXT_ENCODER = "text_encoder"
    OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class ModuleFacts:
    """One module of a pipeline."""

    class_name: str
    role: Role
    dtype: str
    """As torch names it without the prefix: "float16"."""
    parameters_m: float
    """Millions of parameters."""
    tile_side_px: int | None = None
    """For a VAE: pictures up to this side are decoded in one tile."""
    force_upcast: bool = False
    """For a VAE: whether pipelines convert it to float32 in every call where it is in float16."""
    layers_per_block: int | None = None
    """For a U-Net: residual layers in its first block."""
    ends_are_known: bool = True
    """For a U-Net: whether its first and last block are of the kinds that step caches take apart."""
    fuses_qkv: bool = False
    """Whether diffusers can fuse its attention projections."""
    has_repeated_blocks: bool = False
    """Whether diffusers knows which of its blocks repeat, and can compile them one by one."""
    has_cross_attention: bool = False
    """For a denoiser: whether any of its attention layers looks at the prompt alone."""
    has_blocks: bool = False
    """For a denoiser: whether it has transformer blocks or residual blocks in the places where diffusers keeps them."""
    casts_layers: bool = False
    """Whether diffusers can keep its weights in float8 and convert them layer by layer."""
    dispatches_attention: bool = False
    """For a denoiser: whether all of its attention processors take a kernel of diffusers' dispatcher."""

    @property
    def upcasts(self) -> bool:
        """For a VAE: whether pipelines convert it in every call."""
        return self.force_upcast and self.dtype == "float16"

    @property
    def is_unet(self) -> bool:
        """For a denoiser: a U-Net of any kind, not a transformer."""
        return "UNet" in self.class_name


@dataclass(frozen=True, kw_only=True)
class PipelineFacts:
    """One pipeline of a workload, or a module that stands beside the pipelines, and the largest request it serves."""

    class_name: str
    modules: Mapping[str, ModuleFacts] = field(default_factory=dict)
    """By the pipeline's own names for them; a module that is no part of a pipeline has none ("")."""
    largest_batch: int = 1
    largest_side_px: int = 0
    guided: bool = True
    """Whether any request uses classifier-free guidance."""
    steps: tuple[int, ...] = ()
    """How many denoising steps its requests take, as counted in the reference's calls; empty where that is unknown."""
    adapters: bool = False
    """Whether adapters are loaded and unloaded between requests."""
    adapter_kinds: tuple[str, ...] = ()
    """Of the adapters that were seen in its calls: "ip-adapter", "lora"."""
    beside: bool = False
    """Whether it has modules that are no part of any pipeline."""
    visited: bool | None = None
    """Whether any request calls it, as recorded while the reference served them; None where that is unknown."""
    scheduler: str = ""
    """The class of its scheduler; empty where it has none."""
    noise_by_betas: bool = True
    """Whether its scheduler's settings describe the noise that the model was trained with by betas, as most do, and not
    for EDM or flow matching."""

    @property
    def denoisers(self) -> list[ModuleFacts]:
        """Its U-Nets and transformers."""
        return self._with_role(Role.DENOISER)

    @property
    def vaes(self) -> list[ModuleFacts]:
        """Its VAEs."""
        return self._with_role(Role.VAE)

    @property
    def text_encoders(self) -> list[ModuleFacts]:
        """Its text encoders."""
        return self._with_role(Role.TEXT_ENCODER)

    def _with_role(self, role: Role) -> list[ModuleFacts]:
        return [module for module in self.modules.values() if module.role is role]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "PipelineFacts":
        """The inverse of to_dict."""
        modules = {
            name: ModuleFacts(**{**facts, "role": Role(facts["role"])}) for name, facts in data["modules"].items()
        }
        listed = {name: tuple(data.get(name, ())) for name in ("steps", "adapter_kinds")}
        return cls(**{**data, "modules": modules, **listed})


def known_steps(pipelines: Mapping[str, PipelineFacts]) -> list[int] | None:
    """How many steps requests take with the denoisers; None where that is not known of one of the pipelines."""
    serving = [pipeline for pipeline in pipelines.values() if pipeline.denoisers and pipeline.visited is not False]
    counts = [pipeline.steps for pipeline in serving]
    return sorted({count for found in counts for count in found}) if all(counts) else None


def describe_pipelines(pipelines: Mapping[str, Any], requests: Iterable[Any]) -> dict[str, PipelineFacts]:
    """Describe what a workload loaded (diffusers pipelines, modules, anything) and what is asked of it.

    requests: objects with pipeline, batch, width_px, height_px, guidance and adapters.
    """
    requests = list(requests)
    roles: dict[int, Role] = {}
    for role, find in ((Role.DENOISER, denoisers), (Role.VAE, vaes), (Role.TEXT_ENCODER, text_encoders)):
        roles |= {id(module): role for module in find(dict(pipelines))}
    beside = {id(module) for module in user_modules(dict(pipelines))}
    return {
        name: _describe(pipeline, roles, beside, [r for r in requests if r.pipeline == name])
        for name, pipeline in pipelines.items()
    }


def _describe(pipeline: Any, roles: Mapping[int, Role], beside: set[int], requests: list[Any]) -> PipelineFacts:
    modules = torch_modules(pipeline).items()
    scheduler = getattr(pipeline, "scheduler", None)
    return PipelineFacts(
        class_name=type(pipeline).__name__,
        modules={name: _describe_module(module, roles.get(id(module), Role.OTHER)) for name, module in modules},
        largest_batch=max((r.batch for r in requests), default=1),
        largest_side_px=max((max(r.width_px, r.height_px) for r in requests), default=0),
        guided=any(r.guidance > 1 for r in requests),
        adapters=any(r.adapters for r in requests),
        beside=any(id(module) in beside for _, module in modules),
        scheduler="" if scheduler is None else type(scheduler).__name__,
        noise_by_betas=scheduler is None or _noise_by_betas(scheduler),
    )


def _noise_by_betas(scheduler: Any) -> bool:
    settings = getattr(scheduler, "config", {})
    flow = settings.get("use_flow_sigmas") or settings.get("prediction_type") == "flow_prediction"
    return not flow and bool({"beta_schedule", "trained_betas"} & set(settings))


def _is_unet(module: Any) -> bool:
    return bool(getattr(module, "down_blocks", None)) and bool(getattr(module, "up_blocks", None))


def _has_added_projections(module: Any) -> bool:
    """Whether attention has projections of its own for the prompt, as in Kandinsky's U-Net: diffusers fuses none then,
    and tells them by the processors' names as well.
    """
    processors = getattr(module, "attn_processors", {})
    return any("Added" in type(processor).__name__ for processor in processors.values())


def _describe_module(module: Any, role: Role) -> ModuleFacts:
    module = getattr(module, "_orig_mod", module)  # what torch.compile(module) stands for
    parameters = list(module.parameters())
    first_block: Any = next(iter(getattr(module, "down_blocks", None) or ()), None)
    return ModuleFacts(
        class_name=type(module).__name__,
        role=role,
        dtype=str(parameters[0].dtype).removeprefix("torch.") if parameters else "none",
        parameters_m=round(sum(p.numel() for p in parameters) / 1e6, 3),
        tile_side_px=getattr(module, "tile_sample_min_size", None),
        force_upcast=bool(getattr(getattr(module, "config", None), "force_upcast", False)),
        layers_per_block=len(first_block.resnets) if hasattr(first_block, "resnets") else None,
        ends_are_known=ends_are_known(module) if role is Role.DENOISER and _is_unet(module) else True,
        fuses_qkv=hasattr(module, "fuse_qkv_projections") and not _has_added_projections(module),
        has_repeated_blocks=bool(getattr(module, "_repeated_blocks", None)),
        has_cross_attention=any(getattr(each, "is_cross_attention", False) for each in module.modules()),
        casts_layers=hasattr(module, "enable_layerwise_casting"),
        has_blocks=role is Role.DENOISER and _has_blocks(module),
        dispatches_attention=role is Role.DENOISER and _dispatches_attention(module),
    )


def _has_blocks(module: Any) -> bool:
    kept = ("transformer_blocks", "single_transformer_blocks", "resnets")
    return any(len(child) for each in module.modules() for name, child in each._modules.items() if name in kept)


def _dispatches_attention(module: Any) -> bool:
    processors = list(getattr(module, "attn_processors", {}).values())
    return bool(processors) and all(hasattr(processor, "_attention_backend") for processor in processors)
