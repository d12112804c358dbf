"""torch's compiled code as files, for torch 2.11 to 2.13: with `_aot_compile` and `_aotinductor` the only places where
its private interfaces are used for that.

Exported with the techniques that compile, as the functions of `_modules` are.
"""

from typing import Any


def in_folder(folder: Any, *, changing: bool) -> Any:
    """A context in which torch keeps compiled code in `folder`, and, unless `changing`, only reads it.

    torch takes a lock, which is a file, before it looks whether a kernel is there. In a folder that nobody writes to
    there is nothing to lock. It starts a process for each core to compile in, also where all that it does is load:
    they would come up while a new worker makes its first pictures. And for code of a CPU it starts a process for each
    set of vector instructions, to see whether it works: what was found when the code was made is kept beside it. So is
    Python's byte code of what launches the kernels, some megabytes of source for a U-Net.
    """
    import contextlib
    import functools
    import json
    import os
    import platform
    from unittest import mock

    from torch._inductor import codecache, config, cpu_vec_isa
    from torch._inductor.runtime import compile_tasks
    from torch._inductor.utils import clear_caches
    from torch.utils import _filelock

    class NoLock:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *args: Any) -> None:
            pass

    @contextlib.contextmanager
    def entered() -> Any:
        place = os.path.abspath(folder)
        known = os.path.join(place, "vector_instructions.json")
        by_name = platform.machine() in ("x86_64", "AMD64")  # those of other processors share names
        places = {"TORCHINDUCTOR_CACHE_DIR": place, "TRITON_CACHE_DIR": os.path.join(place, "triton")}
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, places))
            once = functools.partial(byte_code, changing=changing)
            stack.enter_context(mock.patch.object(compile_tasks, "compile", once, create=True))
            if not changing:
                stack.enter_context(mock.patch.object(codecache, "get_lock_dir", return_value=place))
                stack.enter_context(mock.patch.object(_filelock, "FileLock", NoLock))
                stack.enter_context(config.patch(compile_threads=1))
                if by_name and os.path.exists(known):
                    with open(known) as file:
                        names = json.load(file)
                    found = [one for one in cpu_vec_isa.supported_vec_isa_list if str(one) in names]
                    stack.enter_context(mock.patch.object(cpu_vec_isa, "valid_vec_isa_list", return_value=found))
            clear_caches()
            try:
                yield
                if by_name and changing and cpu_vec_isa.valid_vec_isa_list.cache_info().currsize:
                    with open(known, "w") as file:
                        json.dump([str(one) for one in cpu_vec_isa.valid_vec_isa_list()], file)
            finally:
                clear_caches()

    return entered()


def byte_code(source: str, path: str, *how: Any, changing: bool, **more: Any) -> Any:
    """compile(source, path, ...), which is kept beside a large source, when `changing`, and read from there.

    Of other versions of Python, or of another source, it is not used. It is part of a bundle like the source itself.
    """
    import importlib.util
    import marshal
    import os
    import pathlib
    import types

    if len(source) < 50_000:
        return compile(source, path, *how, **more)
    kept = pathlib.Path(f"{path}.code")
    head = importlib.util.MAGIC_NUMBER + importlib.util.source_hash(source.encode())

    def moved(code: Any) -> Any:
        # Triton, for one, looks for the source where the code says that it came from.
        constants = [moved(one) if isinstance(one, types.CodeType) else one for one in code.co_consts]
        return code.replace(co_filename=path, co_consts=tuple(constants))

    if kept.exists():
        content = kept.read_bytes()
        if content.startswith(head):
            return moved(marshal.loads(content[len(head) :]))
    code = compile(source, path, *how, **more)
    if changing:
        draft = kept.with_name(f"{kept.name}.{os.getpid()}")
        draft.write_bytes(head + marshal.dumps(code))
        draft.replace(kept)
    return code


def compile_to_folder(program: Any, inputs: list[Any], options: dict[str, Any], folder: Any) -> None:
    """Compile what torch.export gave, for inputs of exactly this kind, and leave the code in the new folder `folder`.

    options: of TorchInductor. Raises RuntimeError where torch cannot save the code.
    """
    import copy
    import pathlib
    import shutil
    import tempfile

    import torch

    # A graph that is launched as one is recorded around the loaded code; it cannot be saved. And versions of a kernel
    # that are only thought of when it is loaded would be compiled and tried by every process that loads it.
    options = {**options, "triton.cudagraphs": False, "dynamic_scale_rblock": False}
    folder = pathlib.Path(folder)

    def compiled() -> Any:
        return torch._inductor.standalone_compile(
            copy.deepcopy(program.graph_module),
            inputs,
            dynamic_shapes="from_example_inputs",
            options={"config_patches": options},
        )

    with in_folder(folder, changing=True):
        made = compiled()
        # Some kernels come in several versions, and the first call tries which is the fastest. What it finds is left
        # beside them, and only code that is made afterwards has no more than that one.
        made(*inputs)
    if any(folder.rglob("*.best_config")):
        for name in ("aotautograd", "fxgraph"):
            shutil.rmtree(folder / name, ignore_errors=True)
        with in_folder(folder, changing=True):
            made = compiled()
            made(*inputs)
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as scratch:
        made.save(path=str(pathlib.Path(scratch, "saved")), format="unpacked")
        keep_needed(folder, pathlib.Path(scratch, "saved"), load_from_folder)


def keep_needed(folder: Any, saved: Any, load: Any) -> None:
    """Of what torch left in `folder` while it compiled, keep the kernels that are launched, which loading would make
    again, and put the content of the folder `saved` beside them: what load(folder, changing=...) reads.
    """
    import pathlib
    import shutil
    import tempfile

    folder = pathlib.Path(folder)
    for name in ("aotautograd", "fxgraph", "locks"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    if not (folder / "triton").is_dir():
        return
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as scratch:
        # Loading into an empty folder unpacks the kernels that are launched, which are not all that were compiled.
        needed = pathlib.Path(scratch, "needed")
        shutil.copytree(saved, needed)
        load(needed, changing=True)
        launched = {kernel.name for kernel in (needed / "triton").glob("*")}
    for kernel in (folder / "triton").iterdir():
        # A library is a launcher, which Triton would otherwise compile again.
        if kernel.name not in launched and not any(kernel.rglob("*.so")):
            shutil.rmtree(kernel)
    # What a kernel was before it was machine code.
    for stage in ("ttir", "ttgir", "llir", "ptx", "source"):
        for file in (folder / "triton").rglob(f"*.{stage}"):
            file.unlink()


def start_triton(folder: Any, *, changing: bool) -> None:
    """Let Triton take its access to the driver, a library that it compiles where it finds none, from `folder`, or, when
    `changing`, put it there. Left to itself it would compile it into whatever folder is used first.

    Does nothing where there is no Triton for NVIDIA's GPUs.
    """
    import os

    if not changing and not os.path.isdir(folder):
        return
    try:
        from triton.backends.nvidia.driver import CudaUtils
        from triton.runtime import driver
    except ImportError:
        return
    with in_folder(folder, changing=changing):
        if changing:
            CudaUtils()  # looks for the library once more, whatever was loaded before
        else:
            _ = driver.active.utils


def load_from_folder(folder: Any, *, changing: bool = False) -> Any:
    """The code in `folder`: a function of tensors, weights and inputs in the order of compile_to_folder, that returns
    a list or a tuple of tensors. It checks nothing.

    Two of the files are pickles of torch's, which run code when they are read.
    """
    import torch

    inductor: Any = torch._inductor
    with in_folder(folder, changing=changing):
        return inductor.CompiledArtifact.load(path=str(folder), format="unpacked")


def load_portable_cache(file: Any) -> None:
    """Put what `torch.compiler.save_cache_artifacts()` gave where torch.compile looks for it.

    Its bytes hold pickles of torch's, which run code when they are read.
    """
    import pathlib

    import torch

    if torch.compiler.load_cache_artifacts(pathlib.Path(file).read_bytes()) is None:
        raise RuntimeError(f"{file} cannot be read by torch {torch.__version__}")
