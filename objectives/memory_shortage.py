"""What an out-of-memory error says was asked for and was free."""

import re
from collections.abc import Iterator

import psutil

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ([KMGT]iB|B|bytes)\b", re.IGNORECASE)
_CAPACITY = re.compile(r"total capacity of ([\d.]+) ([KMGT]iB|B|bytes) of which ([\d.]+) ([KMGT]iB|B|bytes) is free")
_GIB = {"bytes": 2**-30, "B": 2**-30, "KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0, "TiB": 2.0**10}


def memory_shortage(error: BaseException) -> dict[str, float] | None:
    """{"asked_gib", "free_gib", "total_gib"} of an out-of-memory error; None for any other, or when it names no sizes.

    CUDA's allocator names all three. The CPU's and numpy's only say what was asked for: the other two are then read
    from the machine, so ask soon after the error. For any other allocator there is only "asked_gib".
    """
    for cause in causes(error):
        text = str(cause)
        if not is_out_of_memory(cause) or (asked := _ASKED.search(text)) is None:
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


def is_out_of_memory(cause: BaseException) -> bool:
    """Whether this exception, not one that it came from, says that memory ran out."""
    if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
        return True
    return isinstance(cause, RuntimeError) and any(words in str(cause).lower() for words in _OUT_OF_MEMORY)


def _gib(number: str, unit: str) -> float:
    return float(number) * _GIB[unit]


def size_words(gib: float) -> str:
    """ "1.50 GiB", "12.00 MiB" or "512 B"."""
    for factor, unit in ((1, "GiB"), (2**10, "MiB")):
        if gib * factor >= 0.01:
            return f"{gib * factor:.2f} {unit}"
    return f"{gib * 2**30:.0f} B"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it came from, nearest first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
