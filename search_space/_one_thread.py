"""For what keeps its state on a module itself: calls from two threads at once are refused, not mixed up.

Exported with the techniques that use it, as the functions of `_modules` are.
"""

from typing import Any


def one_thread_at_a_time(module: Any, name: str) -> Any:
    """A context manager for calls of `module`. It raises RuntimeError while another thread is inside of it; calls one
    after the other may come from any thread. name: of the technique.
    """
    import contextlib
    import threading

    inside = threading.Lock()

    @contextlib.contextmanager
    def alone() -> Any:
        if not inside.acquire(blocking=False):
            raise RuntimeError(
                f"{name}: two threads call the {type(module).__name__} at once, and {name} has one memory for both; "
                "let one wait for the other, or leave the technique out"
            )
        try:
            yield
        finally:
            inside.release()

    return alone
