"""torch.compile in one thread while others go on making pictures, which torch is not made for.

Exported with the techniques that compile, as the functions of `_modules` are.
"""

from typing import Any

from ._call_shape import switches


def compile_beside(function: Any, compile_now: Any, made: list[Any], state: tuple[str, Any], call: Any) -> Any:
    """What torch.compile makes of a function for calls such as call = (args, kwargs), while others compute.

    compile_now(function) is how; what it gives is kept in `made`, for the next state. state: of what the function
    belongs to, and of the process (`switches`).
    """
    import functools

    import torch

    def under(name: str, *args: Any, **kwargs: Any) -> Any:
        # Compiled anew for each state: torch does not see a hook, say, or a kernel for attention that is switched off.
        return function(*args, **kwargs) if name else None  # it looks at what is used only

    with compiling_beside(), torch.no_grad():
        if not made:
            made.append(compile_now(under))
        run = functools.partial(made[0], f"{state[0]} {state[1]}")
        # What restricts attention to a kernel, say, holds for the call only; the next one compiles.
        if switches() == state[1]:
            run(*call[0], **call[1])
    return run


def compiling_beside() -> Any:
    """A context in which this thread may compile while others compute; one thread of the process at a time.

    While torch traces, it puts its tracer in the place of torch.nn.Module.__call__, and refuses compiled code, in every
    thread; when it is done, it sets the random generators back to where they were when it began. All of that is kept
    to this thread here: requests that are served meanwhile would fail, or get the noise of an earlier one.
    """
    import contextlib
    import functools
    import random
    import threading
    from unittest import mock

    import torch
    from torch.fx import _symbolic_trace

    turn = vars(torch.compiler).setdefault("compiling_beside", threading.Lock())
    replaced, tracing = _symbolic_trace._Patcher.patch_method, _symbolic_trace.is_fx_symbolic_tracing

    def replaced_here(patcher: Any, kind: Any, name: str, new: Any, *args: Any, **kwargs: Any) -> Any:
        before, tracer = getattr(kind, name), threading.get_ident()

        @functools.wraps(new)
        def call(*given: Any, **named: Any) -> Any:
            return (new if threading.get_ident() == tracer else before)(*given, **named)

        return replaced(patcher, kind, name, call, *args, **kwargs)

    @contextlib.contextmanager
    def entered() -> Any:
        with turn, contextlib.ExitStack() as stack:
            here = threading.local()  # a thread's number is another thread's one day

            def elsewhere(function: Any) -> Any:
                def call(*args: Any, **kwargs: Any) -> Any:
                    return None if hasattr(here, "inside") else function(*args, **kwargs)

                return call

            def tracing_here() -> Any:
                return hasattr(here, "inside") and tracing()

            stack.enter_context(mock.patch.object(_symbolic_trace._Patcher, "patch_method", replaced_here))
            stack.enter_context(mock.patch.object(_symbolic_trace, "is_fx_symbolic_tracing", tracing_here))
            for owner, name in ((random, "setstate"), (torch.random, "set_rng_state"), (torch.cuda, "set_rng_state")):
                stack.enter_context(mock.patch.object(owner, name, elsewhere(getattr(owner, name))))
            here.inside = True
            stack.callback(delattr, here, "inside")
            yield

    return entered()


def copied(value: Any) -> Any:
    """Arguments of a call, with copies of the tensors in them: others may write into those meanwhile."""
    import torch

    if torch.is_tensor(value):
        # With its strides, whatever they are: numbers may lie in memory more than once.
        memory = value.untyped_storage().clone()
        return value.new_empty(0).set_(memory, value.storage_offset(), value.size(), value.stride())
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    return type(value)(copied(item) for item in value) if type(value) in (list, tuple) else value
