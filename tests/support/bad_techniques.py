"""Techniques that go wrong, one way each: a study loads this file as a user's own."""

from pathlib import Path
from typing import Any, Literal

from paretune.search_space import Axis, Loss, NoParameters, Parameters, Technique


class HangParameters(Parameters):
    """How it hangs."""

    where: Literal["python", "c_with_signals_blocked"] = "python"


def hang(pipelines: dict[str, Any], *, where: str) -> None:
    import ctypes
    import signal
    import time

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if where == "c_with_signals_blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the GIL: no Python code of this process runs any more
    time.sleep(1000)


def devour(pipelines: dict[str, Any]) -> None:
    import time

    blocks = []
    while True:
        blocks.append(bytearray(b"x") * (32 << 20))
        time.sleep(0.01)  # the machine that runs the tests has work beside this


def segfault(pipelines: dict[str, Any]) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def leave(pipelines: dict[str, Any]) -> None:
    import os

    os._exit(7)


def fail(pipelines: dict[str, Any]) -> None:
    raise ValueError("this U-Net is\n\n[/of] the wrong [red]shape")


def nothing(pipelines: dict[str, Any]) -> None:
    pass


class PicturesParameters(Parameters):
    """What the decoder gives."""

    content: Literal["nan", "black"] = "nan"


def broken_pictures(pipelines: dict[str, Any], *, content: str) -> None:
    vae = pipelines["main"].vae
    decode = vae.decode

    def broken(*args: Any, **kwargs: Any) -> Any:
        (images,) = decode(*args, **{**kwargs, "return_dict": False})
        return (images * float("nan"),) if content == "nan" else (images * 0 - 1,)

    vae.decode = broken


def out_of_memory(pipelines: dict[str, Any]) -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def uncompilable(pipelines: dict[str, Any]) -> None:
    import torch

    unet = pipelines["main"].unet
    inner = unet.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        torch._dynamo.graph_break()
        return inner(*args, **kwargs)

    unet.forward = torch.compile(forward, fullgraph=True, backend="eager")


def no_kernel(pipelines: dict[str, Any]) -> None:
    raise NotImplementedError("\"rms_norm\" not implemented for 'Half'")


def grandchildren(pipelines: dict[str, Any]) -> None:
    import subprocess
    import sys

    # One in this process group, one in a session of its own, and one whose parent has ended.
    sleep = [sys.executable, "-c", "import time; time.sleep(1000)", "paretune-test-grandchild"]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)
    orphan = f"import subprocess; subprocess.Popen({sleep!r}, start_new_session=True)"
    subprocess.run([sys.executable, "-c", orphan], check=True)


def flaky_host(pipelines: dict[str, Any]) -> None:
    """Takes the trial server down the first time: nothing a configuration does is to blame for that."""
    import os
    import signal
    from pathlib import Path

    mark = Path(os.environ["PARETUNE_TEST_FOLDER"]) / "flaky"
    if not mark.exists():
        mark.touch()
        os.kill(os.getppid(), signal.SIGKILL)


def repaint(pipelines: dict[str, Any]) -> None:
    """Makes other pictures: fine ones, but not the same."""
    vae = pipelines["main"].vae
    decode = vae.decode

    def upside_down(*args: Any, **kwargs: Any) -> Any:
        (images,) = decode(*args, **{**kwargs, "return_dict": False})
        return (images.flip(2),)

    vae.decode = upside_down


def compile_and_wait(pipelines: dict[str, Any]) -> None:
    """The first time, waits after compiling, with the compiler's worker processes alive."""
    import os
    import time
    from pathlib import Path

    import torch

    mark = Path(os.environ["PARETUNE_TEST_FOLDER"]) / "compiling"
    if mark.exists():
        return
    torch._inductor.config.compile_threads = 2
    torch.compile(lambda x: x.sin() + 1)(torch.ones(64))
    mark.touch()
    time.sleep(1000)


def break_result(pipelines: dict[str, Any]) -> None:
    import os
    from pathlib import Path

    Path(os.readlink("/proc/self/fd/1")).with_name("result.json").write_text("{not json")
    os._exit(0)


def print_without_end(pipelines: dict[str, Any]) -> None:
    import os

    for _ in range(200):
        os.write(1, b"spam " * 200000)
    os._exit(3)


def took_effect(pipelines: dict[str, Any], **parameters: Any) -> str | None:
    return None


def found_nothing(pipelines: dict[str, Any], **parameters: Any) -> str | None:
    return "no module is any different"


def _technique(apply: Any, parameters: type[Parameters] = NoParameters, effect: Any = took_effect) -> Technique:
    return Technique(
        name=apply.__name__,
        axis=Axis.MEMORY,
        loss=Loss.APPROXIMATE,
        summary="Goes wrong.",
        source=str(Path(__file__).name),
        parameters=parameters,
        apply=apply,
        took_effect=effect,
    )


TECHNIQUES = (
    _technique(hang, HangParameters),
    _technique(devour),
    _technique(segfault),
    _technique(leave),
    _technique(fail),
    _technique(nothing, effect=found_nothing),
    _technique(broken_pictures, PicturesParameters),
    _technique(out_of_memory),
    _technique(uncompilable),
    _technique(no_kernel),
    _technique(grandchildren),
    _technique(flaky_host),
    _technique(repaint),
    _technique(compile_and_wait),
    _technique(break_result),
    _technique(print_without_end),
)
