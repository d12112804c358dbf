"""A call that torch.compile has traced whole, as files: `torch.compile(...).aot_compile`, for torch 2.11 to 2.13.

Exported with the techniques that compile, as the functions of `_modules` are.
"""

from typing import Any

from ._standalone import in_folder, keep_needed


def compile_call_to_folder(inner: Any, call: Any, options: dict[str, Any], folder: Any) -> None:
    """Compile inner(*args, **kwargs) for calls like call = (args, kwargs), and leave the code in a new folder.

    Raises what torch raises where the call is no single graph, or cannot be saved.
    """
    import pathlib
    import shutil
    import tempfile

    import torch

    def whole(inner: Any, args: Any, kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    # As in compile_to_folder. torch cannot save its guards, and they would check what is checked before the call.
    options = {
        **options,
        "triton.cudagraphs": False,
        "dynamic_scale_rblock": False,
        "guard_filter_fn": lambda guards: [False] * len(guards),
    }
    folder = pathlib.Path(folder)

    def compiled() -> Any:
        with torch._dynamo.config.patch(enable_aot_compile=True):
            run: Any = torch.compile(whole, fullgraph=True, dynamic=False, options=options)
            made = run.aot_compile(((inner, *call), {}))
            made.disable_guard_check()
            # The first call tries which version of a kernel is the fastest.
            made(inner, *call)
        return made

    with in_folder(folder, changing=True):
        made = compiled()
    if any(folder.rglob("*.best_config")):
        for name in ("aotautograd", "fxgraph"):
            shutil.rmtree(folder / name, ignore_errors=True)
        with in_folder(folder, changing=True):
            made = compiled()
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as saved:
        made.save_compiled_function(str(pathlib.Path(saved, "function.bin")))
        keep_needed(folder, saved, load_call_from_folder)


def load_call_from_folder(folder: Any, *, changing: bool = False) -> Any:
    """The code in `folder`: a function of (inner, args, kwargs). At each call it takes the weights from `inner`, which
    is the function that it was compiled from, or one like it. It checks nothing.

    The file is a pickle of torch's, which runs code when it is read.
    """
    import pathlib

    import torch

    file = pathlib.Path(folder) / "function.bin"
    with in_folder(folder, changing=changing), file.open("rb") as opened:
        run: Any = torch.compiler.load_compiled_function(opened)
    run.disable_guard_check()
    return run
