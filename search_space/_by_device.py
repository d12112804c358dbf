"""What a study searches on a device when its file names no techniques, and what of that it tries first.

What cannot run on a device its technique refuses. This table says what can run and is not worth a trial there: what
another technique does better, or what only other devices gain from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ._space import SearchSpace
from ._target import Target
from ._technique import Value
from ._techniques import known_techniques, technique
from ._why_never import why_never

SMALL_GIB = 26.0
"""GPU memory below which 16-bit SDXL or Flux leave little room, and what saves memory is tried before the rest."""


def _everywhere(target: Target) -> bool:
    return True


def _adds_up_faster_in_16_bits(target: Target) -> bool:
    """GeForce cards do, by twice; those for workstations and servers with the same chips (A10, L40S) add up in float32
    as fast: NVIDIA's papers on the architectures GA102, AD102 and GB202 list both.
    """
    return "GeForce" in target.name and target.sm() >= 80


@dataclass(frozen=True)
class Offer:
    """A technique that the default space has."""

    technique: str
    choices: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """Parameters of which only some values are searched."""
    gains: Callable[[Target], bool] = _everywhere
    """Whether a device gains from it."""
    otherwise: str = ""
    """Why not, where it does not."""


SPEED: tuple[Offer, ...] = (
    # A few seconds more than the unchanged pipeline takes.
    Offer("cuda_graphs"),
    Offer("cuda_graphs_modules"),
    Offer("ip_adapter_swap"),
    Offer("lora_merge"),
    Offer("lora_hotswap", {"most_rank": (16, 64)}),
    Offer("channels_last"),
    Offer("fused_qkv"),
    Offer("cudnn_benchmark"),
    Offer("vae_dtype"),
    Offer("sdpa_kernel"),
    # Those of torch itself are what sdpa_kernel chooses, and fused_qkv goes with that one.
    Offer("attention_backend", {"backend": ("flash", "_flash_3", "sage", "xformers")}),
    Offer("dtype"),
    Offer("module_dtype"),
    Offer("tf32"),
    Offer(
        "fp16_accumulation",
        gains=_adds_up_faster_in_16_bits,
        otherwise="this GPU adds up as fast in float32",
    ),
    Offer("deepcache"),
    Offer("forecast_cache"),
    Offer("first_block_cache"),
    Offer("guidance_cutoff"),
    Offer("guidance_interval"),
    Offer("prompt_embedding_cache"),
    Offer("pyramid_attention_broadcast"),
    # For transformers.
    Offer("transformer_first_block_cache"),
    Offer("taylorseer_cache"),
    Offer("mag_cache"),
    Offer("faster_cache"),
    Offer("cache_dit"),
    # A minute or two.
    Offer(
        "torch_compile",
        {
            "recipe": ("none", "coordinate_descent"),  # the others add options to it that seldom matter
            "dynamic": ("auto",),
            "fullgraph": (False,),  # the same code, or none
        },
    ),
    Offer("torch_compile_vae"),
    Offer("torch_compile_text_encoders"),
    Offer("torch_compile_modules"),
    Offer("stable_fast"),
    Offer("torch_tensorrt"),
    Offer("torchao_quantization"),
)
MEMORY: tuple[Offer, ...] = (
    Offer("text_encoder_offload"),
    Offer("vae_tiling"),
    Offer("vae_slicing"),
    Offer("expandable_segments"),
    Offer("model_offload"),
    Offer("group_offload"),
    Offer("layerwise_casting"),
)
"""What makes nothing faster, from what costs the least time on."""


def offered(target: Target) -> tuple[Offer, ...]:
    """What is searched on a device unless a study says otherwise, in the order in which it is worth trying."""
    space, _ = default_space(target)
    return tuple(offer for offer in _offers(target) if offer.technique in space.techniques)


def default_space(target: Target) -> tuple[SearchSpace, dict[str, str]]:
    """The space of a study that names no techniques, without what cannot run on the device whatever the pipelines, and
    the reasons of what was left out.
    """
    gaining = [offer for offer in _offers(target) if offer.gains(target)]
    selection = {offer.technique: {name: list(values) for name, values in offer.choices.items()} for offer in gaining}
    space, left_out = SearchSpace.of(selection).possible_on(target)
    others = [offer for offer in _offers(target) if not offer.gains(target)]
    useless = {each.technique: why_never(technique(each.technique), target) or each.otherwise for each in others}
    return space, useless | left_out


def _offers(target: Target) -> tuple[Offer, ...]:
    """The table in the order of the device. Techniques that it does not know, a user's own among them, come last, with
    all of their choices.
    """
    small = target.device == "cuda" and 0 < target.memory_gib < SMALL_GIB
    table = MEMORY + SPEED if small else SPEED + MEMORY
    names = {offer.technique for offer in table}
    others = [Offer(own.name) for own in known_techniques() if own.name not in names and not own.on_request]
    return (*table, *others)
