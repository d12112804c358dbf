"""For what changes a denoiser between requests: pictures and changes take turns, whatever threads they come from.

Exported with the techniques that use it, as the functions of `_modules` are, of which it calls `denoisers`.
"""

from typing import Any

from ._modules import denoisers


def take_turns(pipelines: dict[str, Any], denoiser: Any) -> Any:
    """The lock that every call of a pipeline with this denoiser holds from now on: one thread's at a time, so that
    nothing which takes the lock changes a picture in the making. It is `turn` of each of these pipelines:

        with pipeline.turn:  # what is loaded stays until the picture is done
            pipeline.load_ip_adapter(...)
            pipeline(...)
    """
    import functools
    import threading

    def locked(kind: Any, lock: Any) -> Any:
        @functools.wraps(kind.__call__)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            with lock:
                return kind.__call__(self, *args, **kwargs)

        return call

    sharing = [
        each
        for each in pipelines.values()
        if callable(each) and any(part is denoiser for part in denoisers({"": each}))
    ]
    known = [type(each).turn for each in sharing if hasattr(type(each), "turn")]
    lock = known[0] if known else threading.RLock()
    for pipeline in sharing:
        kind = type(pipeline)
        if not hasattr(kind, "turn"):
            # A call is looked up in the class. In this one's place stands one of the same name, of this pipeline alone.
            own = {"__call__": locked(kind, lock), "__module__": kind.__module__, "turn": lock}
            pipeline.__class__ = type(kind.__name__, (kind,), own)
    return lock
