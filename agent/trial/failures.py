"""Exceptions of a trial, sorted into the closed list of outcomes."""

import traceback

from ...objectives.memory_shortage import causes, is_out_of_memory, memory_shortage, size_words
from ...studies import Outcome, is_no_room, without_secrets

_UNSUPPORTED = ("no available kernel", "no viable backend", "not implemented for", "is not supported on")
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx", "triton")


def classify(error: BaseException, phase: str) -> Outcome:
    """The outcome that an exception raised in `phase` stands for."""
    if any(is_no_room(cause) for cause in causes(error)):
        return Outcome.INFRASTRUCTURE
    if phase == "judge":
        # Everything was made and measured. If judging fails, that is not the configuration's fault, and the sampler
        # must not learn to avoid it.
        return Outcome.INFRASTRUCTURE
    if any(is_out_of_memory(cause) for cause in causes(error)):
        return Outcome.OOM
    if phase in ("start", "load"):
        return Outcome.INFRASTRUCTURE  # the unchanged pipelines did not load
    for cause in causes(error):
        text = str(cause).lower()
        if isinstance(cause, NotImplementedError) or any(words in text for words in _UNSUPPORTED):
            return Outcome.UNSUPPORTED
    if any(type(cause).__module__.startswith(_COMPILERS) for cause in causes(error)):
        return Outcome.COMPILE_ERROR
    return Outcome.APPLY_ERROR


def sentence(error: BaseException, phase: str) -> str:
    """The exception in one line: the phase it was raised in, and the sizes if an out-of-memory error names them."""
    if (shortage := memory_shortage(error)) is not None:
        text = f"{phase}: out of memory: {size_words(shortage['asked_gib'])} were asked for"
        if "free_gib" in shortage:
            text += f" and {size_words(shortage['free_gib'])} of {size_words(shortage['total_gib'])} were free"
        return text
    text = " ".join(without_secrets(str(error)).split()) or "no message"
    if len(text) > 300:
        text = f"{text[:300]} ..."
    return f"{phase}: {type(error).__name__}: {text}"


def tail(error: BaseException, characters: int = 4000) -> str:
    """The end of the traceback."""
    return without_secrets("".join(traceback.format_exception(error)))[-characters:]
