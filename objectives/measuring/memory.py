"""Peak memory of this process while a block runs: VRAM on a GPU, resident set on the CPU.

1 GiB = 1024**3 bytes.
"""

import dataclasses
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

BYTES_PER_GIB = 1024**3

SOURCE_PROCESS = "nvml-process"  # NVML's figure for this process: context, libraries and allocator
SOURCE_DEVICE_MINUS_BEFORE = "nvml-device-minus-before"  # device in use, less what was in use before this process
SOURCE_DEVICE_MINUS_ENTRY = "nvml-device-minus-entry"  # as above, but the CUDA context counts as somebody else's
SOURCE_ALLOCATOR = "torch-reserved"  # no NVML at all: the allocator's reserved memory, without the CUDA context
SOURCE_RESIDENT_SET = "resident-set"  # CPU: /proc/self/statm


@dataclass(frozen=True)
class MemorySummary:
    """Peak memory in GiB. `source` says what `peak_vram_gib` was read from (the SOURCE_ constants).

    `allocated_gib` and `reserved_gib` are the CUDA caching allocator's peaks; None on the CPU.
    """

    peak_vram_gib: float
    source: str
    allocated_gib: float | None
    reserved_gib: float | None
    device_total_gib: float | None

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain, JSON-able values under the names of the fields."""
        return dataclasses.asdict(self)


def release_unused(device: str) -> None:
    """Give back what the caching allocator holds and nothing uses, so that a peak does not count what came before."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


class PeakMemory:
    """Context manager that samples memory in a thread; read `summary` after the block.

    Peaks shorter than `interval_ms` between two samples can be missed on the CPU; on a GPU the allocator keeps what
    it once reserved, so they are not.

    `used_before_gib` is `device_used_gib(device)` taken before this process first touched the GPU. It is needed only
    where NVML cannot see this process (in most containers: process ids of another namespace); without it, what was in
    use on entry beyond this process's own reserved memory is taken for somebody else's, which leaves out the CUDA
    context (some 0.3 to 0.6 GiB).

    Raises ValueError for a device that is neither "cpu" nor "cuda[:index]". An error while sampling is raised on exit,
    unless the block itself failed.
    """

    def __init__(self, device: str, interval_ms: float = 10.0, used_before_gib: float | None = None) -> None:
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device {device!r} is not supported: use 'cpu' or 'cuda[:index]'")
        self._device = device
        self._is_cuda = kind == "cuda"
        self._interval_s = interval_ms / 1e3
        self._used_before_gib = used_before_gib
        self._summary: MemorySummary | None = None
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._peak_bytes = 0

    @property
    def summary(self) -> MemorySummary:
        """What was measured. Raises RuntimeError before the block has ended."""
        if self._summary is None:
            raise RuntimeError("the measured block has not ended yet")
        return self._summary

    def __enter__(self) -> "PeakMemory":
        self._summary, self._error, self._peak_bytes = None, None, 0
        self._stop.clear()
        self._sample, self._source, self._total_bytes = self._open()
        self._take_sample()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._take_sample()
        self._summary = self._summarize()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s) and self._error is None:
            self._take_sample()

    def _take_sample(self) -> None:
        try:
            self._peak_bytes = max(self._peak_bytes, self._sample())
        except Exception as error:  # kept for __exit__: an exception in the thread would be lost
            self._error = error

    def _open(self) -> tuple[Callable[[], int], str, int | None]:
        """What to sample (a function giving bytes), its name, and the device's total bytes."""
        if not self._is_cuda:
            return resident_set_bytes, SOURCE_RESIDENT_SET, None
        import torch

        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(self._device)
        index = device_index(self._device)
        try:
            handle = nvml_handle(index)
        except ImportError:
            handle = None
        except Exception as error:
            if not _is_nvml_error(error):
                raise
            handle = None
        if handle is None:
            total_bytes = torch.cuda.get_device_properties(index).total_memory
            return lambda: int(torch.cuda.memory_reserved(self._device)), SOURCE_ALLOCATOR, int(total_bytes)

        import pynvml

        total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        # A process appears in NVML's list once it has a context; an empty tensor makes one.
        torch.empty(1, device=self._device)
        process_bytes = _process_bytes(handle)
        # Less than the allocator holds cannot be this process: in a container, a stranger's id can equal ours.
        if process_bytes is not None and process_bytes >= torch.cuda.memory_reserved(self._device):
            return lambda: _process_bytes(handle) or 0, SOURCE_PROCESS, total

        def device_bytes() -> int:
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)

        if self._used_before_gib is not None:
            others_bytes, source = int(self._used_before_gib * BYTES_PER_GIB), SOURCE_DEVICE_MINUS_BEFORE
        else:
            # Weights loaded before the block are this process's own and must stay in the figure.
            others_bytes = device_bytes() - int(torch.cuda.memory_reserved(self._device))
            source = SOURCE_DEVICE_MINUS_ENTRY
        return lambda: max(0, device_bytes() - others_bytes), source, total

    def _summarize(self) -> MemorySummary:
        allocated_gib = reserved_gib = None
        if self._is_cuda:
            import torch

            allocated_gib = torch.cuda.max_memory_allocated(self._device) / BYTES_PER_GIB
            reserved_gib = torch.cuda.max_memory_reserved(self._device) / BYTES_PER_GIB
            if self._source == SOURCE_ALLOCATOR:  # the allocator's own peak misses nothing between samples
                self._peak_bytes = int(torch.cuda.max_memory_reserved(self._device))
        return MemorySummary(
            peak_vram_gib=self._peak_bytes / BYTES_PER_GIB,
            source=self._source,
            allocated_gib=allocated_gib,
            reserved_gib=reserved_gib,
            device_total_gib=None if self._total_bytes is None else self._total_bytes / BYTES_PER_GIB,
        )


def resident_set_bytes() -> int:
    """Bytes of this process that are in physical memory now (Linux: second field of /proc/self/statm, in pages).

    Not `ru_maxrss`: that peak covers the process's whole life and cannot be reset.
    """
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_gib() -> float:
    """The same in GiB."""
    return resident_set_bytes() / BYTES_PER_GIB


def allocated_peak_gib(device: str) -> float:
    """The most that torch's allocator had in use on a CUDA device since `forget_allocated_peak`, in GiB."""
    import torch

    return float(torch.cuda.max_memory_allocated(device) / BYTES_PER_GIB)


def forget_allocated_peak(device: str) -> None:
    """Begin a new peak; nothing is to be done on the CPU."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def device_used_gib(device: str) -> float | None:
    """GiB in use on a CUDA device by all processes, read without creating a CUDA context; None without NVML."""
    try:
        import pynvml

        return float(pynvml.nvmlDeviceGetMemoryInfo(nvml_handle(device_index(device))).used) / BYTES_PER_GIB
    except ImportError:
        return None
    except Exception as error:
        if not _is_nvml_error(error):
            raise
        return None


def device_index(device: str) -> int:
    """Index in "cuda:index" as this process counts (after CUDA_VISIBLE_DEVICES); "cuda" is the current device."""
    _, _, index = device.partition(":")
    if index:
        return int(index)
    import sys

    torch = sys.modules.get("torch")  # no reason to import it here: without it there is no current device
    return int(torch.cuda.current_device()) if torch is not None and torch.cuda.is_initialized() else 0


def nvml_handle(index: int) -> Any:
    """NVML's handle of the device that this process calls cuda:`index`.

    NVML ignores CUDA_VISIBLE_DEVICES. Once CUDA is up, the device's UUID decides; before that (and this function never
    starts CUDA), the variable is read. A bare number in it counts by PCI bus, as NVML does; CUDA counts the fastest
    first unless CUDA_DEVICE_ORDER=PCI_BUS_ID, which differs only between unlike GPUs in one host.

    Raises ImportError without pynvml, pynvml.NVMLError without a driver or device, ValueError when
    CUDA_VISIBLE_DEVICES does not reach `index`.
    """
    import sys

    import pynvml

    pynvml.nvmlInit()  # counted by NVML: calling it again is cheap
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        uuid = str(torch.cuda.get_device_properties(index).uuid)  # without NVML's prefix
        try:
            return pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        except pynvml.NVMLError:
            pass  # a MIG slice's UUID carries another prefix: CUDA_VISIBLE_DEVICES names it in full
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    if index >= len(entries):
        raise ValueError(f"cuda:{index} does not exist: CUDA_VISIBLE_DEVICES={visible!r}")
    entry = entries[index]
    if entry.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(entry))
    if entry.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(entry)
    # CUDA accepts any unique beginning of a UUID, NVML only the whole.
    for physical in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(physical)
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        if (uuid.decode() if isinstance(uuid, bytes) else uuid).startswith(entry):
            return handle
    raise ValueError(f"no GPU matches {entry!r} of CUDA_VISIBLE_DEVICES={visible!r}")


def nvml_handle_if_any(device: str) -> Any | None:
    """NVML's handle of "cuda" or "cuda:index"; None on the CPU, and where NVML gives none for whatever reason."""
    if not device.startswith("cuda"):
        return None
    try:
        return nvml_handle(device_index(device))
    except Exception:  # what is read with it is worth knowing, but measuring goes on without
        return None


def _process_bytes(handle: Any) -> int | None:
    """Bytes NVML attributes to this process on this device; None when it does not list it or gives no figure."""
    import pynvml

    for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
        if process.pid == os.getpid():
            return None if process.usedGpuMemory is None else int(process.usedGpuMemory)
    return None


def _is_nvml_error(error: Exception) -> bool:
    import pynvml

    return isinstance(error, pynvml.NVMLError)
