"""torch's compiled code as a shared library: AOTInductor, for torch 2.11 to 2.13.

Exported with the techniques that compile, as the functions of `_modules` are.
"""

from typing import Any

from ._standalone import in_folder


def compile_to_library(program: Any, inputs: list[Any], options: dict[str, Any], folder: Any) -> None:
    """Compile what torch.export gave, for inputs of exactly this kind, into model.so in the new folder `folder`.

    Weights are inputs of the library as everything else is, so it holds none, and folds none into constants.
    """
    import copy
    import pathlib
    import shutil
    import tempfile

    import torch

    folder = pathlib.Path(folder)
    graph = copy.deepcopy(program.graph_module)
    tensors = [node for node in graph.graph.nodes if node.op == "get_attr"]
    if any(torch.is_tensor(getattr(graph, str(node.target), None)) for node in tensors):
        raise TypeError("the graph holds a tensor that is no input")
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as scratch, in_folder(scratch, changing=True):
        how = {
            **options,
            "triton.cudagraphs": False,
            "aot_inductor.output_path": str(pathlib.Path(scratch, "model.so")),
            # Kernels in the library itself: it names no file that lies elsewhere.
            "aot_inductor.embed_kernel_binary": True,
        }
        made = torch._inductor.aot_compile(graph, tuple(inputs), options=how)
        folder.mkdir()
        shutil.copyfile(str(made), folder / "model.so")


def load_library(folder: Any, *, device: str) -> Any:
    """The code in `folder`: a function of tensors, weights and inputs in the order of compile_to_library, that returns
    a list of tensors. It checks nothing, and nothing is unpacked.
    """
    import pathlib

    import torch

    file, runners = str(pathlib.Path(folder) / "model.so"), torch._C._aoti
    if device == "cpu":
        runner: Any = runners.AOTIModelContainerRunnerCpu(file, 1)
    else:
        runner = runners.AOTIModelContainerRunnerCuda(file, 1, device)
    return lambda *tensors: runner.run(list(tensors))
