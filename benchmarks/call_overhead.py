"""What the host does around a call of code that came compiled with a bundle, and of a CUDA graph, in microseconds.

    python benchmarks/call_overhead.py

Without a GPU: the U-Net has all of SDXL's layers and parameters, which are narrow, and nothing is computed where the
compiled code, or the recorded kernels, would run. What is left is the check that shapes, switches, layers and weights
are those that the code is for. Beside it stands the same U-Net's own forward(), whose time goes into calling layers
and starting kernels: the ratio says how much of the host's time is saved. Rounds of both take turns.
"""

import argparse
import contextlib
import inspect
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from diffusers import UNet2DConditionModel
from paretune.search_space import technique
from paretune.search_space._artefacts import answered
from paretune.search_space._call_shape import described, switches
from paretune.search_space._module_state import module_state
from paretune.search_space._structure import module_weights, watched_structure
from paretune.search_space.compiler import cuda_graphs

COUNTS = ("calls", "graphs", "loaded", "missed", "eager", "compiled", "ready", "recorded", "replayed", "direct")


def narrow_sdxl() -> Any:
    """SDXL's U-Net with a few channels: 1,930 layers with 1,680 parameters."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 8, 16),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(1, 2, 4),
        norm_num_groups=2,
        cross_attention_dim=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    ).eval()


def loaded(unet: Any, part: str, call: tuple[Any, ...]) -> Callable[..., Any]:
    """unet.part as an artefact answers it, with code that takes every weight and computes nothing."""
    inner = getattr(unet, part)
    results: list[Any] = []
    structure = described(inner(*call), results)
    tensors: list[Any] = []
    described(call, tensors)
    inputs: list[Any] = [["weight", name] for name in module_weights(unet)] + ["input"] * len(tensors)
    entry = {"code": "any", "inputs": inputs, "result": structure}

    class Code(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            return entry, lambda *flat: results

    store = {"code": Code(), "on_miss": "error"}
    run: Callable[..., Any] = answered(store, unet, part, inner, None, {}, dict.fromkeys(COUNTS, 0))
    return run


@contextlib.contextmanager
def no_driver() -> Any:
    """`recorded` of cuda_graphs on the CPU: a recording that repeats nothing."""
    stream = mock.Mock()
    stand_ins = {
        "CUDAGraph": lambda: type("Recording", (), {"replay": lambda self: None})(),
        "graph": lambda *args, **options: contextlib.nullcontext(),
        "Stream": lambda device: stream,
        "current_stream": lambda device=None: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "device": lambda device: contextlib.nullcontext(),
        "graph_pool_handle": lambda: None,
        "is_current_stream_capturing": lambda: False,
    }
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        source = inspect.getsource(cuda_graphs.recorded).replace('device.type == "cuda"', 'device.type == "cpu"')
        namespace: dict[str, Any] = {"Any": Any, "watched_structure": watched_structure, "switches": switches}
        exec(inspect.getsource(cuda_graphs.recording_place), namespace)
        exec(source, namespace)
        yield namespace["recorded"]


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=30, help="in a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    unet, parts = narrow_sdxl(), narrow_sdxl()
    technique("deepcache").apply({"main": type("Pipeline", (), {"components": {"unet": parts}})()},
        interval=3, branch=0, full_percent=0)  # fmt: skip
    added = {"text_embeds": torch.zeros(2, 8), "time_ids": torch.zeros(2, 6)}
    call = (torch.zeros(2, 4, 8, 8), torch.tensor(1.0), torch.zeros(2, 7, 8))
    whole = (*call, None, None, None, None, added, None, None, None, None, False)
    full = (*call, added, None)
    with torch.no_grad(), no_driver() as recorded:
        shallow = (*full, parts.deepcache_full(*full)[1])
        counts = dict.fromkeys(COUNTS, 0)
        rows: dict[str, Callable[[], Any]] = {
            "forward() itself": lambda: unet(*whole),
            "where its weights lie (module_state)": module_state(unet),
            "what it is, and its weights (watched_structure)": watched_structure(unet),
        }
        for name, module, part, arguments in (
            ("whole", unet, "forward", whole),
            ("DeepCache, full step", parts, "deepcache_full", full),
            ("DeepCache, shallow step", parts, "deepcache_shallow", shallow),
        ):
            code = loaded(module, part, arguments)
            graph = recorded(code, module, counts)
            rows[f"{name}: loaded code"] = lambda code=code, arguments=arguments: code(*arguments)
            rows[f"{name}: CUDA graph of it"] = lambda graph=graph, arguments=arguments: graph(*arguments)
        times: dict[str, list[float]] = {name: [] for name in rows}
        for turn in range(options.rounds + 1):
            for name, run in rows.items():
                calls = 2 if name == "forward() itself" else options.calls
                began = time.perf_counter()
                for _ in range(calls):
                    run()
                if turn:  # the first one binds weights and records
                    times[name].append((time.perf_counter() - began) / calls * 1e6)
    eager = statistics.median(times["forward() itself"])
    print(f"| | us per call, median of {options.rounds} rounds | from | to | share of forward() |")
    print("| --- " * 5 + "|")
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:.0f} | {min(found):.0f} | {max(found):.0f} | 1/{eager / middle:.0f} |")


if __name__ == "__main__":
    main()
