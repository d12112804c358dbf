"""What the machine did while it was timed: GPU clocks, heat, power, throttling, and what other programs took.

Linux: the CPU's figures come from /proc.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .memory import BYTES_PER_GIB

CPU_INTERVAL_S = 1.0
"""The CPU and the list of GPU processes are read this often at most: reading /proc of many cores takes milliseconds."""
CLOCK_DROP = 0.10
"""A call whose SM clock is lower than earlier calls' by more than this is throttled (aiconfigurator's threshold)."""
FOREIGN_CPU_SHARE = 0.05
"""Other programs' share of the CPU from which notes() names it; an idle system stays under it."""

IDLE, POWER_CAP = 0x1, 0x4
THROTTLING = {
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
REASONS = {
    IDLE: "idle",
    0x2: "application clocks",
    POWER_CAP: "power cap",
    0x10: "sync boost",
    0x100: "display clocks",
    **THROTTLING,
}
"""Bits of NVML's clock event reasons (nvml.h, nvmlClocksEventReason...) in words."""


@dataclass(frozen=True)
class Sample:
    """The GPU at one moment. None is what the driver does not report. NVML averages power over up to a second."""

    at_s: float
    """time.perf_counter()"""
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    utilization_percent: int | None = None
    reasons: int | None = None
    """Bits of REASONS: why clocks are lower than they could be."""


class MachineState:
    """Context manager that watches the machine in a thread while calls are timed.

    `handle` is NVML's handle of the GPU (memory.nvml_handle), None on the CPU or where there is no NVML.
    A reading that is not available is None, never an error.

    Raises ValueError for a device that is neither "cpu" nor "cuda[:index]".
    """

    def __init__(self, device: str, handle: Any | None, interval_ms: float = 100.0) -> None:
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device {device!r} is not supported: use 'cpu' or 'cuda[:index]'")
        self._handle = handle if kind == "cuda" else None
        self._interval_ms = interval_ms
        self._stop = threading.Event()
        self._reset()

    def _reset(self) -> None:
        self._samples: list[Sample] = []
        self._loads: list[float] = []
        self._frequencies_mhz: list[float] = []
        self._foreign: dict[int, dict[str, Any]] = {}
        self._foreign_share: float | None = None
        self._highest_clock_mhz = 0.0
        self._cpu_read_s = float("-inf")

    def __enter__(self) -> "MachineState":
        self._reset()
        self._stop.clear()
        self._cpu_before = _cpu_seconds()
        self._take_sample()
        self._thread = threading.Thread(target=self._run, name="machine-state", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._cpu_read_s = float("-inf")
        self._take_sample()
        self._foreign_share = _foreign_share(self._cpu_before, _cpu_seconds())

    def throttled(self, start_s: float, end_s: float) -> str | None:
        """Why the GPU was throttled during the call between two time.perf_counter() values; None if it was not.

        Either the driver says so (THROTTLING) in a sample taken during the call, or in the one nearest to a call
        shorter than the interval; or the call's median SM clock is more than CLOCK_DROP under the highest median of
        the calls asked about before. Clocks of samples in which the GPU was idle, or at its power cap, do not count:
        under high load, a GPU normally runs at its power cap. None on the CPU and without NVML.
        """
        if self._handle is None or not self._samples:
            return None
        samples = list(self._samples)
        during = [sample for sample in samples if start_s <= sample.at_s <= end_s]
        during = during or [min(samples, key=lambda sample: max(start_s - sample.at_s, sample.at_s - end_s))]
        named = [name for bit, name in THROTTLING.items() if any((sample.reasons or 0) & bit for sample in during)]
        if named:
            return " and ".join(named)
        clocks_mhz = [
            sample.sm_clock_mhz
            for sample in during
            if sample.sm_clock_mhz is not None and not (sample.reasons or 0) & (IDLE | POWER_CAP)
        ]
        if not clocks_mhz:
            return None
        clock_mhz, before_mhz = statistics.median(clocks_mhz), self._highest_clock_mhz
        self._highest_clock_mhz = max(clock_mhz, before_mhz)
        if clock_mhz < (1 - CLOCK_DROP) * before_mhz:
            return f"SM clock of {clock_mhz:.0f} MHz, {before_mhz:.0f} MHz in an earlier call"
        return None

    def summary(self) -> dict[str, Any]:
        """What was seen so far, JSON-able: MHz, degrees Celsius, W, percent, GiB; shares lie in [0, 1].

        `clock_event_reasons` are shares of the samples. `cpu.foreign_share` is the share of all CPU time between entry
        and exit that did not go to this process and its descendants: other programs, the kernel's interrupts, and on
        a virtual machine what its host took away; None before the exit. Processes are those seen at any time.
        """
        samples = list(self._samples)
        reasons = [sample.reasons for sample in samples if sample.reasons is not None]
        utilization = [sample.utilization_percent for sample in samples if sample.utilization_percent is not None]
        return {
            "samples": len(samples),
            "interval_ms": self._interval_ms,
            "sm_clock_mhz": _spread([sample.sm_clock_mhz for sample in samples]),
            "memory_clock_mhz": _spread([sample.memory_clock_mhz for sample in samples]),
            "temperature_c": _spread([sample.temperature_c for sample in samples]),
            "power_w": _spread([sample.power_w for sample in samples]),
            "gpu_utilization_percent": round(statistics.fmean(utilization), 1) if utilization else None,
            "clock_event_reasons": {
                name: round(share, 3)
                for bit, name in REASONS.items()
                if (share := sum(1 for bits in reasons if bits & bit) / max(1, len(reasons)))
            },
            "foreign_gpu_processes": [dict(process) for process in list(self._foreign.values())],
            "cpu": {
                "load_1min": _median(self._loads),
                "frequency_mhz": _median(self._frequencies_mhz),
                "foreign_share": self._foreign_share,
            },
        }

    def _run(self) -> None:
        while not self._stop.wait(self._interval_ms / 1e3):
            self._take_sample()

    def _take_sample(self) -> None:
        self._samples.append(_read_gpu(self._handle))
        now_s = time.perf_counter()
        if now_s - self._cpu_read_s < CPU_INTERVAL_S:
            return
        self._cpu_read_s = now_s
        self._loads.append(os.getloadavg()[0])
        if (frequency_mhz := _cpu_frequency_mhz()) is not None:
            self._frequencies_mhz.append(frequency_mhz)
        for process in foreign_gpu_processes(self._handle, _process_tree()):
            known_gib = self._foreign.get(process["pid"], process)["used_gib"]
            if known_gib is not None and (process["used_gib"] is None or process["used_gib"] < known_gib):
                process["used_gib"] = known_gib
            self._foreign[process["pid"]] = process


def foreign_gpu_processes(handle: Any | None, own_pids: Collection[int]) -> list[dict[str, Any]]:
    """Compute and graphics processes on the GPU that are not ours, as {"pid", "name", "used_gib"}, the largest first.

    `name` is "unknown" where this process cannot see the other; `used_gib` is None where the driver does not tell.
    In a container NVML may list processes under the ids of another namespace. So when none of `own_pids` is in the
    list, one nameless entry is taken for ourselves: ask only once this process uses the GPU.
    """
    if handle is None:
        return []
    import pynvml

    used_bytes: dict[int, int | None] = {}
    for listing in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for process in _reading(pynvml, listing, handle) or ():
            if process.usedGpuMemory is not None or process.pid not in used_bytes:
                used_bytes[process.pid] = process.usedGpuMemory
    found = [
        {"pid": pid, "name": _process_name(pid), "used_gib": None if used is None else round(used / BYTES_PER_GIB, 3)}
        for pid, used in sorted(used_bytes.items(), key=lambda item: -(item[1] or 0))
        if pid not in own_pids
    ]
    if len(found) == len(used_bytes):
        ourselves = next((process for process in found if process["name"] == "unknown"), None)
        found = [process for process in found if process is not ourselves]
    return found


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What in a MachineState's summary() a person should know, one short sentence each; empty when all was quiet."""
    reasons: Mapping[str, float] = summary["clock_event_reasons"]
    said = [
        f"the GPU was throttled ({name}) in {_percent(reasons[name])} of the readings"
        for name in THROTTLING.values()
        if name in reasons
    ]
    if (share := reasons.get(REASONS[POWER_CAP])) is not None:
        said.append(f"the GPU was at its power cap in {_percent(share)} of the readings")
    for process in summary["foreign_gpu_processes"]:
        used = "" if process["used_gib"] is None else f", {process['used_gib']:.2f} GiB"
        said.append(f"another program was on the GPU: {process['name']} (process {process['pid']}{used})")
    share = summary["cpu"]["foreign_share"]
    if share is not None and share >= FOREIGN_CPU_SHARE:
        said.append(f"other programs used {_percent(share)} of the CPU")
    return said


def _read_gpu(handle: Any | None) -> Sample:
    if handle is None:
        return Sample(time.perf_counter())
    import pynvml

    def read(function: str, *arguments: Any) -> Any:
        return _reading(pynvml, function, handle, *arguments)

    # Before driver 535 the function had the other name.
    reasons = read("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        reasons = read("nvmlDeviceGetCurrentClocksThrottleReasons")
    power_mw, rates = read("nvmlDeviceGetPowerUsage"), read("nvmlDeviceGetUtilizationRates")
    return Sample(
        time.perf_counter(),
        sm_clock_mhz=read("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
        memory_clock_mhz=read("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM),
        temperature_c=read("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        power_w=None if power_mw is None else power_mw / 1e3,
        utilization_percent=None if rates is None else rates.gpu,
        reasons=reasons,
    )


def _reading(pynvml: Any, function: str, *arguments: Any) -> Any:
    """What an NVML function says; None where the driver or the binding does not support it."""
    read: Callable[..., Any] | None = getattr(pynvml, function, None)
    if read is None:
        return None
    try:
        return read(*arguments)
    except pynvml.NVMLError:
        return None


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Seconds of CPU time since the start of the machine, over all CPUs: in all, not idle, and of our process tree.

    None where /proc/stat is not available. Fields as in proc(5); user time includes that of guests.
    """
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        own = sum(_process_ticks(pid) for pid in _process_tree())
    except (OSError, ValueError, IndexError):
        return None
    return sum(ticks) / ticks_per_s, (sum(ticks) - idle) / ticks_per_s, own / ticks_per_s


def _foreign_share(before: tuple[float, float, float] | None, after: tuple[float, float, float] | None) -> float | None:
    if before is None or after is None or after[0] <= before[0]:
        return None
    total_s, busy_s, own_s = (end - start for start, end in zip(before, after, strict=True))
    return round(min(1.0, max(0.0, (busy_s - own_s) / total_s)), 3)  # the counters are not read at the same instant


def _process_tree() -> set[int]:
    """This process and its descendants. Kernels without /proc/PID/task/TID/children show no descendants."""
    found, left = set[int](), [os.getpid()]
    while left:
        pid = left.pop()
        found.add(pid)
        for thread in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                left += [int(child) for child in thread.read_text(encoding="ascii").split() if int(child) not in found]
            except OSError:
                continue  # the thread ended meanwhile
    return found


def _process_ticks(pid: int) -> int:
    """User and system time of a process and of its children that ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # names may contain spaces
    except OSError:
        return 0
    return sum(int(field) for field in fields[11:15])


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"


def _cpu_frequency_mhz() -> float | None:
    """Mean over the CPUs; None where /proc/cpuinfo does not tell it (not on x86). In a virtual machine it is fixed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    values = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return statistics.fmean(values) if values else None


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"min": min(known), "median": statistics.median(known), "max": max(known)}


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "under 1%"
