"""Exceptions of a trial, sorted into the closed list of outcomes."""

import re
import traceback
from collections.abc import Iterator

import psutil

from ...studies import Outcome

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_UNSUPPORTED = ("no available kernel", "no viable backend", "not implemented for", "is not supported on")
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ([KMGT]iB|B|bytes)\b", re.IGNORECASE)
_CAPACITY = re.compile(r"total capacity of ([\d.]+) ([KMGT]iB|B|bytes) of which ([\d.]+) ([KMGT]iB|B|bytes) is free")
_GIB = {"bytes": 2**-30, "B": 2**-30, "KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0, "TiB": 2.0**10}
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx", "triton")


def classify(error: BaseException, phase: str) -> Outcome:
    """The outcome that an exception raised in `phase` stands for."""
    if phase == "judge":
        # Everything was made and measured. If judging fails, that is not the configuration's fault, and the sampler
        # must not learn to avoid it.
        return Outcome.INFRASTRUCTURE
    if any(_is_out_of_memory(cause) for cause in _chain(error)):
        return Outcome.OOM
    if phase in ("start", "load"):
        return Outcome.INFRASTRUCTURE  # the unchanged pipelines did not load
    for cause in _chain(error):
        text = str(cause).lower()
        if isinstance(cause, NotImplementedError) or any(words in text for words in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
    if any(type(cause).__module__.startswith(_COMPILERS) for cause in _chain(error)):
        return Outcome.COMPILE_ERROR
    return Outcome.APPLY_ERROR


def sentence(error: BaseException, phase: str) -> str:
    """The exception in one line: the phase it was raised in, and the sizes if an out-of-memory error names them."""
    if (shortage := memory_shortage(error)) is not None:
        text = f"{phase}: out of memory: {_size(shortage['asked_gib'])} were asked for"
        if "free_gib" in shortage:
            text += f" and {_size(shortage['free_gib'])} of {_size(shortage['total_gib'])} were free"
        return text
    text = " ".join(without_secrets(str(error)).split()) or "no message"
    if len(text) > 300:
        text = f"{text[:300]} ..."
    return f"{phase}: {type(error).__name__}: {text}"


def memory_shortage(error: BaseException) -> dict[str, float] | None:
    """{"asked_gib", "free_gib", "total_gib"} of an out-of-memory error; None for any other, or when it names no sizes.

    CUDA's allocator names all three. The CPU's and numpy's only say what was asked for: the other two are then read
    from the machine, so ask soon after the error. For any other allocator there is only "asked_gib".
    """
    for cause in _chain(error):
        text = str(cause)
        if not _is_out_of_memory(cause) or (asked := _ASKED.search(text)) is None:
            continue
        shortage = {"asked_gib": _gib(*asked.groups())}
        if (capacity := _CAPACITY.search(text)) is not None:
            total, total_unit, free, free_unit = capacity.groups()
            return {**shortage, "free_gib": _gib(free, free_unit), "total_gib": _gib(total, total_unit)}
        if isinstance(cause, MemoryError) or "CPUAllocator" in text:
            memory = psutil.virtual_memory()
            return {**shortage, "free_gib": memory.available / 2**30, "total_gib": memory.total / 2**30}
        return shortage
    return None


def tail(error: BaseException, characters: int = 4000) -> str:
    """The end of the traceback."""
    return without_secrets("".join(traceback.format_exception(error)))[-characters:]


def without_secrets(text: str) -> str:
    """Hub tokens and the passwords in URLs replaced by stars: what is stored and shown must not hold them."""
    return re.sub(r"(://[^/\s:@]+:)[^/\s@]+@", r"\1***@", re.sub(r"hf_\w+", "hf_***", text))


def _is_out_of_memory(cause: BaseException) -> bool:
    if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
        return True
    return isinstance(cause, RuntimeError) and any(words in str(cause).lower() for words in _OUT_OF_MEMORY)


def _gib(number: str, unit: str) -> float:
    return float(number) * _GIB[unit]


def _size(gib: float) -> str:
    for factor, unit in ((1, "GiB"), (2**10, "MiB")):
        if gib * factor >= 0.01:
            return f"{gib * factor:.2f} {unit}"
    return f"{gib * 2**30:.0f} B"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
