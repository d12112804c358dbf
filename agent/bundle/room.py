"""How many processes can compile side by side on this machine."""

import os

import psutil

from ...objectives.measuring.memory import BYTES_PER_GIB, nvml_handle_if_any

MOST = 8
CORES_EACH = 3
"""Compiling keeps one core busy, and for a part of its time a few compilers."""
HOST_GIB_BESIDE = 4.0
"""What a process that compiles needs of the host's memory beside the workload."""


def processes_beside(device: str, peak_gib: float) -> int:
    """How many processes there is room for that each serve the workload and compile: of cores, and of memory, of which
    the workload needs `peak_gib`.
    """
    host_gib = psutil.virtual_memory().available / BYTES_PER_GIB
    room = [MOST, len(os.sched_getaffinity(0)) // CORES_EACH, int(host_gib / (peak_gib + HOST_GIB_BESIDE))]
    if device.startswith("cuda"):
        room.append(int(_free_gib(device) / (1.1 * peak_gib)))
    return max(1, min(room))


def _free_gib(device: str) -> float:
    """What no process uses of a GPU; 0 where NVML does not say."""
    handle = nvml_handle_if_any(device)
    if handle is None:
        return 0.0
    import pynvml

    return float(pynvml.nvmlDeviceGetMemoryInfo(handle).free) / BYTES_PER_GIB
