"""Exceptions of a trial, sorted into the closed list of outcomes."""

import re
import traceback
from collections.abc import Iterator

from ..studies import Outcome

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_UNSUPPORTED = ("no available kernel", "no viable backend", "not implemented for", "is not supported on")
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx", "triton")


def classify(error: BaseException, phase: str) -> Outcome:
    """The outcome that an exception raised in `phase` stands for."""
    for cause in _chain(error):
        text = str(cause).lower()
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
            return Outcome.OOM
        if isinstance(cause, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY):
            return Outcome.OOM
    if phase in ("start", "load", "judge"):
        # The unchanged pipelines did not load, or pictures could not be read: the configuration is not to blame.
        return Outcome.INFRASTRUCTURE
    for cause in _chain(error):
        text = str(cause).lower()
        if isinstance(cause, NotImplementedError) or any(words in text for words in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
    if any(type(cause).__module__.startswith(_COMPILERS) for cause in _chain(error)):
        return Outcome.COMPILE_ERROR
    return Outcome.APPLY_ERROR


def sentence(error: BaseException, phase: str) -> str:
    """The exception in one line, with the phase it was raised in."""
    text = " ".join(without_secrets(str(error)).split()) or "no message"
    if len(text) > 300:
        text = f"{text[:300]} ..."
    return f"{phase}: {type(error).__name__}: {text}"


def tail(error: BaseException, characters: int = 4000) -> str:
    """The end of the traceback."""
    return without_secrets("".join(traceback.format_exception(error)))[-characters:]


def without_secrets(text: str) -> str:
    """Hub tokens and the passwords in URLs replaced by stars: what is stored and shown must not hold them."""
    return re.sub(r"(://[^/\s:@]+:)[^/\s@]+@", r"\1***@", re.sub(r"hf_\w+", "hf_***", text))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
