"""Every technique there is, in the order of application: those that come with paretune and a user's own."""

import difflib
import hashlib
import inspect
import sys
import types
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ._artefacts import counters, open_artefacts
from ._technique import Technique
from ._trusted import trusted
from ._watch import applied_once, watch
from .adapters.ip_adapter_swap import TECHNIQUE as IP_ADAPTER_SWAP
from .adapters.lora_hotswap import TECHNIQUE as LORA_HOTSWAP
from .adapters.lora_merge import TECHNIQUE as LORA_MERGE
from .attention.attention_backend import TECHNIQUE as ATTENTION_BACKEND
from .attention.fused_qkv import TECHNIQUE as FUSED_QKV
from .attention.sdpa_kernel import TECHNIQUE as SDPA_KERNEL
from .caching.cache_dit import TECHNIQUE as CACHE_DIT
from .caching.deepcache import TECHNIQUE as DEEPCACHE
from .caching.faster_cache import TECHNIQUE as FASTER_CACHE
from .caching.first_block_cache import TECHNIQUE as FIRST_BLOCK_CACHE
from .caching.forecast_cache import TECHNIQUE as FORECAST_CACHE
from .caching.guidance_cutoff import TECHNIQUE as GUIDANCE_CUTOFF
from .caching.guidance_interval import TECHNIQUE as GUIDANCE_INTERVAL
from .caching.mag_cache import TECHNIQUE as MAG_CACHE
from .caching.prompt_embedding_cache import TECHNIQUE as PROMPT_EMBEDDING_CACHE
from .caching.pyramid_attention_broadcast import TECHNIQUE as PYRAMID_ATTENTION_BROADCAST
from .caching.taylorseer_cache import TECHNIQUE as TAYLORSEER_CACHE
from .caching.transformer_first_block_cache import TECHNIQUE as TRANSFORMER_FIRST_BLOCK_CACHE
from .compiler.cuda_graphs import TECHNIQUE as CUDA_GRAPHS
from .compiler.cuda_graphs_modules import TECHNIQUE as CUDA_GRAPHS_MODULES
from .compiler.cudnn_benchmark import TECHNIQUE as CUDNN_BENCHMARK
from .compiler.stable_fast import TECHNIQUE as STABLE_FAST
from .compiler.torch_compile import TECHNIQUE as TORCH_COMPILE
from .compiler.torch_compile_modules import TECHNIQUE as TORCH_COMPILE_MODULES
from .compiler.torch_compile_text_encoders import TECHNIQUE as TORCH_COMPILE_TEXT_ENCODERS
from .compiler.torch_compile_vae import TECHNIQUE as TORCH_COMPILE_VAE
from .compiler.torch_tensorrt import TECHNIQUE as TORCH_TENSORRT
from .memory.channels_last import TECHNIQUE as CHANNELS_LAST
from .memory.expandable_segments import TECHNIQUE as EXPANDABLE_SEGMENTS
from .memory.group_offload import TECHNIQUE as GROUP_OFFLOAD
from .memory.model_offload import TECHNIQUE as MODEL_OFFLOAD
from .memory.text_encoder_offload import TECHNIQUE as TEXT_ENCODER_OFFLOAD
from .memory.vae_slicing import TECHNIQUE as VAE_SLICING
from .memory.vae_tiling import TECHNIQUE as VAE_TILING
from .precision.dtype import TECHNIQUE as DTYPE
from .precision.fp16_accumulation import TECHNIQUE as FP16_ACCUMULATION
from .precision.layerwise_casting import TECHNIQUE as LAYERWISE_CASTING
from .precision.module_dtype import TECHNIQUE as MODULE_DTYPE
from .precision.tf32 import TECHNIQUE as TF32
from .precision.torchao_quantization import TECHNIQUE as TORCHAO_QUANTIZATION
from .precision.vae_dtype import TECHNIQUE as VAE_DTYPE
from .sampling.fewer_steps import TECHNIQUE as FEWER_STEPS
from .sampling.scheduler import TECHNIQUE as SCHEDULER

TECHNIQUES: tuple[Technique, ...] = (
    DTYPE,  # first: what follows copies, rearranges or quantizes weights of this dtype
    VAE_DTYPE,  # after it: this one is the VAE's own
    MODULE_DTYPE,
    CUDNN_BENCHMARK,
    TF32,
    FP16_ACCUMULATION,
    EXPANDABLE_SEGMENTS,
    IP_ADAPTER_SWAP,
    LORA_MERGE,
    LORA_HOTSWAP,
    SCHEDULER,
    FUSED_QKV,  # before quantization: quantized weights cannot be concatenated
    ATTENTION_BACKEND,
    CHANNELS_LAST,  # before compilation: a later change of layout would recompile
    TORCHAO_QUANTIZATION,
    LAYERWISE_CASTING,
    FEWER_STEPS,
    DEEPCACHE,  # these three split forward() into the parts that are compiled next
    FIRST_BLOCK_CACHE,
    FORECAST_CACHE,
    TORCH_COMPILE,
    TORCH_COMPILE_VAE,
    TORCH_COMPILE_TEXT_ENCODERS,
    TORCH_COMPILE_MODULES,
    STABLE_FAST,
    TORCH_TENSORRT,
    CUDA_GRAPHS,  # of compiled code, where there is some
    CUDA_GRAPHS_MODULES,
    PYRAMID_ATTENTION_BROADCAST,  # from here on: wrappers and hooks, outside of the compiled graphs
    TRANSFORMER_FIRST_BLOCK_CACHE,
    TAYLORSEER_CACHE,
    MAG_CACHE,
    FASTER_CACHE,
    CACHE_DIT,
    GUIDANCE_CUTOFF,  # around every cache, which then sees that the batch changes
    GUIDANCE_INTERVAL,
    PROMPT_EMBEDDING_CACHE,
    SDPA_KERNEL,
    VAE_SLICING,
    VAE_TILING,
    MODEL_OFFLOAD,  # last: the hook that moves a module to the device has to run before everything else
    GROUP_OFFLOAD,
    TEXT_ENCODER_OFFLOAD,  # around what group offload has wrapped
)
"""In the order of application: by stage, and within a stage as they stand here."""


@dataclass(frozen=True)
class _File:
    """A user's technique file as it was executed."""

    content_hash: str
    techniques: dict[str, Technique]


_files: dict[Path, _File] = {}
_own: dict[str, Technique] = {}


def known_techniques() -> tuple[Technique, ...]:
    """Those that come with paretune and those that were loaded, in the order of application.

    By stage; within a stage, those that come with paretune before a user's own.
    """
    return tuple(_by_name(tuple(_own.values())).values())


@lru_cache(maxsize=4)
def _by_name(own: tuple[Technique, ...]) -> dict[str, Technique]:
    """In the order of application. Kept, as a search asks thousands of times."""
    return {known.name: known for known in sorted((*TECHNIQUES, *own), key=lambda known: known.stage)}


def load_techniques(file: Path) -> tuple[Technique, ...]:
    """Import a Python file that defines TECHNIQUES, a tuple of a user's own techniques, and return them.

    A process executes a file once, and again when its content has changed: its techniques then take the place of those
    it had before. Of two files with a technique of one name, the one that was loaded last counts. Raises ValueError, in
    one sentence, when the file cannot be used.
    """
    file = file.resolve()
    before = _files.get(file)
    loaded = _executed(file, before)
    own = loaded.techniques
    if loaded is before and all(_own.get(name) is known for name, known in own.items()):
        return tuple(own.values())
    for known in TECHNIQUES:
        if known.name in own:
            raise ValueError(f"{file}: there is a technique {known.name!r} already")
    replaced = {} if before is None else before.techniques
    others = {name: known for name, known in _own.items() if name not in own and replaced.get(name) is not known}
    _refuse_equal_names([*TECHNIQUES, *others.values(), *own.values()], file)
    _files[file] = loaded
    for name in _own.keys() - others.keys() - own.keys():
        del _own[name]
    _own.update(own)
    return tuple(own.values())


def forget_techniques() -> None:
    """Forget every technique that was loaded, as if this process had just begun."""
    _files.clear()
    _own.clear()


def _executed(file: Path, before: _File | None) -> _File:
    """What the file defines; `before` where its content is still the same."""
    try:
        source = file.read_bytes()
        content_hash = hashlib.sha256(source).hexdigest()
        if before is not None and before.content_hash == content_hash:
            return before
        # The path is part of the name: files of one name in two folders are two modules.
        module = types.ModuleType(f"paretune_own_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}")
        module.__file__ = str(file)
        sys.modules[module.__name__] = module  # inspect.getsource, which writes apply.py, looks the module up here
        # Not by an import: Python's cache of compiled files overlooks changes within a second.
        exec(compile(source, str(file), "exec"), module.__dict__)
        return _File(content_hash, {own.name: own for own in module.TECHNIQUES})
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"the technique file {file} cannot be used: {text}") from error


def _refuse_equal_names(techniques: list[Technique], file: Path) -> None:
    """Functions of one name are one function: in apply.py, the last would stand for all of them."""
    sources = dict.fromkeys(("apply", "apply_techniques"), "the entry point of apply.py")
    everywhere = (watch, applied_once, open_artefacts, trusted, counters)
    sources |= {function.__name__: inspect.getsource(function) for function in everywhere}
    for known in techniques:
        for function in (*known.helpers, known.apply):
            source = inspect.getsource(function)
            if sources.setdefault(function.__name__, source) != source:
                raise ValueError(
                    f"{file}: another function is called {function.__name__!r} already, and apply.py has room for one"
                )


def technique(name: str) -> Technique:
    """The technique of that name. Raises ValueError, in one sentence, when there is none."""
    known = _by_name(tuple(_own.values()))
    if name not in known:
        close = difflib.get_close_matches(name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"there is no technique {name!r}; {hint}")
    return known[name]
