"""Every technique there is, in the order of application: those that come with paretune, then a user's own."""

import difflib
import importlib.util
import inspect
import sys
from pathlib import Path

from ._technique import Technique
from .attention.fused_qkv import TECHNIQUE as FUSED_QKV
from .attention.sdpa_kernel import TECHNIQUE as SDPA_KERNEL
from .caching.deepcache import TECHNIQUE as DEEPCACHE
from .caching.guidance_cutoff import TECHNIQUE as GUIDANCE_CUTOFF
from .compiler.torch_compile import TECHNIQUE as TORCH_COMPILE
from .memory.channels_last import TECHNIQUE as CHANNELS_LAST
from .memory.group_offload import TECHNIQUE as GROUP_OFFLOAD
from .memory.model_offload import TECHNIQUE as MODEL_OFFLOAD
from .memory.vae_slicing import TECHNIQUE as VAE_SLICING
from .memory.vae_tiling import TECHNIQUE as VAE_TILING
from .precision.dtype import TECHNIQUE as DTYPE
from .precision.torchao_quantization import TECHNIQUE as TORCHAO_QUANTIZATION

TECHNIQUES: tuple[Technique, ...] = (
    DTYPE,  # first: what follows copies, rearranges or quantizes weights of this dtype
    FUSED_QKV,  # before quantization: quantized weights cannot be concatenated
    CHANNELS_LAST,  # before compilation: a later change of layout would recompile
    TORCHAO_QUANTIZATION,
    DEEPCACHE,  # splits forward() into the parts that are compiled next
    TORCH_COMPILE,
    GUIDANCE_CUTOFF,  # from here on: wrappers and hooks, outside of the compiled graphs
    SDPA_KERNEL,
    VAE_SLICING,
    VAE_TILING,
    MODEL_OFFLOAD,  # last: the hook that moves a module to the device has to run before everything else
    GROUP_OFFLOAD,
)
"""In the order of application."""

_own: dict[str, Technique] = {}


def known_techniques() -> tuple[Technique, ...]:
    """Those that come with paretune and those that were loaded, in the order of application."""
    return (*TECHNIQUES, *_own.values())


def load_techniques(file: Path) -> None:
    """Import a Python file that defines TECHNIQUES, a tuple of a user's own techniques; they are applied last.

    Loading the same file again replaces them. Raises ValueError, in one sentence, when the file cannot be used.
    """
    name = f"paretune_own_{file.stem}"
    try:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError("it is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # inspect.getsource, which writes apply.py, looks the module up here
        spec.loader.exec_module(module)
        own = {own.name: own for own in module.TECHNIQUES}
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"the technique file {file} cannot be used: {text}") from error
    for known in TECHNIQUES:
        if known.name in own:
            raise ValueError(f"{file}: there is a technique {known.name!r} already")
    _refuse_equal_names(
        [*TECHNIQUES, *(known for known in _own.values() if known.name not in own), *own.values()], file
    )
    _own.update(own)


def _refuse_equal_names(techniques: list[Technique], file: Path) -> None:
    """Functions of one name are one function: in apply.py, the last would stand for all of them."""
    sources = {"apply": "the entry point of apply.py"}
    for known in techniques:
        for function in (*known.helpers, known.apply):
            source = inspect.getsource(function)
            if sources.setdefault(function.__name__, source) != source:
                raise ValueError(
                    f"{file}: another function is called {function.__name__!r} already, and apply.py has room for one"
                )


def technique(name: str) -> Technique:
    """The technique of that name. Raises ValueError, in one sentence, when there is none."""
    known = {candidate.name: candidate for candidate in known_techniques()}
    if name not in known:
        close = difflib.get_close_matches(name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"there is no technique {name!r}; {hint}")
    return known[name]
