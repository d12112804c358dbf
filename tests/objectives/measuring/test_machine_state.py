"""The machine's state: a faked NVML, the real /proc, and a GPU where there is one."""

import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import torch
from paretune.objectives.measuring import machine_state
from paretune.objectives.measuring.machine_state import MachineState, foreign_gpu_processes, notes
from paretune.objectives.measuring.memory import nvml_handle

HANDLE = object()
NAMELESS = 2**30  # above any pid_max
HARDWARE_SLOWDOWN, POWER_CAP, IDLE = 0x8, 0x4, 0x1


class FakeNvml(types.ModuleType):
    """A GPU with readings to be set; a reading of None is one that the driver does not support."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.sm_clock_mhz: int | None = 1980
        self.memory_clock_mhz: int | None = 2619
        self.temperature_c: int | None = 60
        self.power_mw: int | None = 650_500
        self.utilization: int | None = 99
        self.reasons: int | None = 0
        self.compute: list[Any] | None = []
        self.graphics: list[Any] | None = None
        self.samples = 0

    def _supported(self, value: Any) -> Any:
        if value is None:
            raise self.NVMLError("not supported")
        return value

    def nvmlDeviceGetClockInfo(self, handle: object, kind: int) -> Any:
        return self._supported(self.sm_clock_mhz if kind == self.NVML_CLOCK_SM else self.memory_clock_mhz)

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> Any:
        self.samples += 1
        return self._supported(self.temperature_c)

    def nvmlDeviceGetPowerUsage(self, handle: object) -> Any:
        return self._supported(self.power_mw)

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Any:
        return types.SimpleNamespace(gpu=self._supported(self.utilization), memory=50)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> Any:
        return self._supported(self.reasons)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> Any:
        return self._supported(self.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: object) -> Any:
        return self._supported(self.graphics)

    def wait(self) -> None:
        """Until readings set before this call are in a sample, whole."""
        deadline, enough = time.monotonic() + 10, self.samples + 3
        while self.samples < enough:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def call(self, state: MachineState, **readings: int | None) -> str | None:
        """Ask about a call during which the GPU reads so."""
        vars(self).update(readings)
        self.wait()
        start_s = time.perf_counter()
        self.wait()
        return state.throttled(start_s, time.perf_counter())


def _process(pid: int, used_gib: float | None) -> Any:
    return types.SimpleNamespace(pid=pid, usedGpuMemory=None if used_gib is None else int(used_gib * 1024**3))


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """As old bindings: without nvmlDeviceGetCurrentClocksEventReasons."""
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def sleeper() -> Iterator[int]:
    """Process id of another program."""
    with subprocess.Popen(["sleep", "60"]) as process:
        deadline = time.monotonic() + 10
        while psutil.Process(process.pid).name() != "sleep":  # until exec() it has our name
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process.pid
        process.kill()


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (0x8, "hardware slowdown"),
        (0x20, "software thermal slowdown"),
        (0x8 | 0x40 | POWER_CAP, "hardware slowdown and hardware thermal slowdown"),
        (0x80, "hardware power brake"),
        (POWER_CAP, None),
        (0x2 | 0x10 | 0x100 | IDLE, None),
        (None, None),
    ],
)
def test_the_driver_says_why_it_throttles(nvml: FakeNvml, reasons: int | None, expected: str | None) -> None:
    with MachineState("cuda:0", HANDLE, interval_ms=1) as state:
        assert nvml.call(state, reasons=reasons) == expected


def test_reasons_have_a_newer_name_too(nvml: FakeNvml) -> None:
    vars(nvml)["nvmlDeviceGetCurrentClocksEventReasons"] = lambda handle: HARDWARE_SLOWDOWN
    with MachineState("cuda", HANDLE, interval_ms=1) as state:
        assert nvml.call(state) == "hardware slowdown"


def test_a_lower_clock_than_in_earlier_calls_is_throttling(nvml: FakeNvml) -> None:
    with MachineState("cuda:0", HANDLE, interval_ms=1) as state:
        assert nvml.call(state, sm_clock_mhz=1900) is None
        assert nvml.call(state, sm_clock_mhz=1980) is None
        assert nvml.call(state, sm_clock_mhz=1770) == "SM clock of 1770 MHz, 1980 MHz in an earlier call"
        assert nvml.call(state, sm_clock_mhz=1790) is None
        assert nvml.call(state, sm_clock_mhz=1500, reasons=POWER_CAP) is None
        assert nvml.call(state, sm_clock_mhz=345, reasons=IDLE) is None
        assert nvml.call(state, sm_clock_mhz=None) is None


def test_a_call_between_two_samples_is_judged_by_the_nearest(nvml: FakeNvml) -> None:
    with MachineState("cuda:0", HANDLE, interval_ms=3_600_000) as state:
        now_s = time.perf_counter()
        assert state.throttled(now_s, now_s) is None
    nvml.reasons = HARDWARE_SLOWDOWN
    with MachineState("cuda:0", HANDLE, interval_ms=3_600_000) as state:
        now_s = time.perf_counter()
        assert state.throttled(now_s, now_s) == "hardware slowdown"
        assert state.throttled(now_s - 2, now_s - 1) == "hardware slowdown"


def test_the_summary_says_what_was_seen(nvml: FakeNvml) -> None:
    nvml.compute = [_process(os.getpid(), 12), _process(NAMELESS, 2.25)]
    with MachineState("cuda:0", HANDLE, interval_ms=3_600_000) as state:
        vars(nvml).update(sm_clock_mhz=1400, power_mw=700_500, utilization=0, reasons=POWER_CAP | 0x20)
        nvml.compute = [_process(os.getpid(), 12), _process(NAMELESS, 1)]
    summary = state.summary()
    cpu = summary.pop("cpu")
    assert summary == {
        "samples": 2,
        "interval_ms": 3_600_000,
        "sm_clock_mhz": {"min": 1400, "median": 1690, "max": 1980},
        "memory_clock_mhz": {"min": 2619, "median": 2619, "max": 2619},
        "temperature_c": {"min": 60, "median": 60, "max": 60},
        "power_w": {"min": 650.5, "median": 675.5, "max": 700.5},
        "gpu_utilization_percent": 49.5,
        "clock_event_reasons": {"power cap": 0.5, "software thermal slowdown": 0.5},
        "foreign_gpu_processes": [{"pid": NAMELESS, "name": "unknown", "used_gib": 2.25}],
    }
    assert cpu["load_1min"] >= 0
    assert notes({**summary, "cpu": {**cpu, "foreign_share": 0.34}}) == [
        "the GPU was throttled (software thermal slowdown) in 50% of the readings",
        "the GPU was at its power cap in 50% of the readings",
        f"another program was on the GPU: unknown (process {NAMELESS}, 2.25 GiB)",
        "other programs used 34% of the CPU",
    ]


def test_what_the_driver_does_not_tell_is_none(nvml: FakeNvml) -> None:
    vars(nvml).update(
        dict.fromkeys(("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_mw", "utilization", "reasons"))
    )
    nvml.compute = None
    with MachineState("cuda:0", HANDLE, interval_ms=1) as state:
        assert nvml.call(state) is None
    summary = state.summary()
    assert summary["samples"] >= 2
    for name in ("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "gpu_utilization_percent"):
        assert summary[name] is None
    assert summary["clock_event_reasons"] == {}
    assert os.getpid() not in [process["pid"] for process in summary["foreign_gpu_processes"]]


def test_processes_of_others_have_names(nvml: FakeNvml, sleeper: int) -> None:
    nvml.compute = [_process(os.getpid(), 12), _process(sleeper, 2)]
    nvml.graphics = [_process(sleeper, None), _process(NAMELESS, None)]
    assert foreign_gpu_processes(HANDLE, {os.getpid()}) == [
        {"pid": sleeper, "name": "sleep", "used_gib": 2},
        {"pid": NAMELESS, "name": "unknown", "used_gib": None},
    ]
    assert foreign_gpu_processes(None, {os.getpid()}) == []


def test_in_a_container_one_nameless_process_is_ourselves(nvml: FakeNvml, sleeper: int) -> None:
    nvml.compute = [_process(NAMELESS, 12)]
    assert foreign_gpu_processes(HANDLE, {os.getpid()}) == []
    nvml.compute = [_process(NAMELESS, 12), _process(NAMELESS + 1, 2), _process(sleeper, 20)]
    assert [process["pid"] for process in foreign_gpu_processes(HANDLE, {os.getpid()})] == [sleeper, NAMELESS + 1]


def test_our_own_children_are_not_foreign(nvml: FakeNvml, sleeper: int) -> None:
    nvml.compute = [_process(os.getpid(), 12), _process(sleeper, 2)]
    with MachineState("cuda:0", HANDLE) as state:
        pass
    assert state.summary()["foreign_gpu_processes"] == []


def test_the_cpu() -> None:
    with MachineState("cpu", None, interval_ms=1) as state:
        now_s = time.perf_counter()
        assert state.throttled(now_s, now_s) is None
        deadline = time.monotonic() + 10
        while time.process_time() < 0.1 and time.monotonic() < deadline:
            pass
    summary = state.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["samples"] >= 2
    assert summary["sm_clock_mhz"] is None
    assert summary["cpu"]["load_1min"] >= 0
    assert summary["cpu"]["frequency_mhz"] is None or summary["cpu"]["frequency_mhz"] > 100
    assert summary["cpu"]["foreign_share"] is None or 0 <= summary["cpu"]["foreign_share"] <= 1
    assert all("GPU" not in note for note in notes(summary))


def test_an_idle_machine_is_nothing_to_note(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 10 s of CPU time 8 were busy, 7.8 of them ours.
    readings = iter([(100.0, 50.0, 10.0), (110.0, 58.0, 17.8)])
    monkeypatch.setattr(machine_state, "_cpu_seconds", lambda: next(readings))
    with MachineState("cpu", None) as state:
        pass
    assert state.summary()["cpu"]["foreign_share"] == pytest.approx(0.02)
    assert notes(state.summary()) == []


def test_the_work_of_children_is_our_own() -> None:
    def own_s() -> float:
        seconds = machine_state._cpu_seconds()
        assert seconds is not None
        return seconds[2]

    before_s = own_s()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        deadline = time.monotonic() + 60
        while (used_s := psutil.Process(child.pid).cpu_times().user) < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert own_s() - before_s >= used_s - 0.02  # the kernel counts in hundredths
        child.kill()
    assert own_s() - before_s >= used_s - 0.02


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="mps"):
        MachineState("mps", None)


@pytest.mark.gpu
def test_a_busy_gpu() -> None:
    matrix = torch.ones(8192, 8192, device="cuda", dtype=torch.float16)
    with MachineState("cuda", nvml_handle(0), interval_ms=20) as state:
        start_s = time.perf_counter()
        while time.perf_counter() - start_s < 1:
            matrix @ matrix
            torch.cuda.synchronize()
        reason = state.throttled(start_s, time.perf_counter())
    summary = state.summary()
    assert reason is None or "slow" in reason or "brake" in reason
    assert summary["samples"] > 10
    assert summary["sm_clock_mhz"]["max"] > 500
    assert summary["temperature_c"]["max"] > 10
    assert summary["power_w"]["max"] > 50
    assert os.getpid() not in [process["pid"] for process in summary["foreign_gpu_processes"]]
