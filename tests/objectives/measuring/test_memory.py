"""Peak memory: a real tensor on the CPU, a faked NVML, and a GPU where there is one."""

import sys
import threading
import types
from typing import Any

import pytest
import torch
from paretune.objectives.measuring import memory
from paretune.objectives.measuring.memory import BYTES_PER_GIB, PeakMemory, nvml_handle


def test_a_tensor_on_the_cpu_is_seen_and_stays_the_peak() -> None:
    before_gib = memory.resident_set_bytes() / BYTES_PER_GIB
    with PeakMemory("cpu", interval_ms=1) as peak:
        tensor = torch.ones(200 * 1024**2, dtype=torch.uint8)
        assert tensor[-1] == 1
    assert peak.summary.peak_vram_gib >= before_gib + 150 / 1024  # some of it may be memory freed before
    assert peak.summary.source == "resident-set"
    assert peak.summary.allocated_gib is None
    assert set(peak.summary.to_dict()) == {
        "peak_vram_gib",
        "source",
        "allocated_gib",
        "reserved_gib",
        "device_total_gib",
    }


def test_the_thread_sees_what_is_gone_by_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1, 5])
    seen = threading.Event()

    def read() -> int:
        value = next(readings, 2)
        if value == 2:
            seen.set()
        return value * BYTES_PER_GIB

    monkeypatch.setattr(memory, "resident_set_bytes", read)
    with PeakMemory("cpu", interval_ms=1) as peak:
        assert seen.wait(10)
    assert peak.summary.peak_vram_gib == 5


def test_errors() -> None:
    with pytest.raises(ValueError, match="mps"):
        PeakMemory("mps")
    with pytest.raises(RuntimeError, match="not ended"):
        _ = PeakMemory("cpu").summary
    with pytest.raises(KeyError), PeakMemory("cpu") as peak:
        raise KeyError
    assert peak.summary.peak_vram_gib > 0  # known even when the block failed: an out-of-memory tells something


def test_an_error_while_sampling_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> int:
        raise OSError("gone")

    monkeypatch.setattr(memory, "resident_set_bytes", read)
    with pytest.raises(OSError, match="gone"), PeakMemory("cpu"):
        pass


@pytest.fixture
def fake_nvml(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    uuids = ["GPU-aaaa-1", "GPU-bbbb-2", "GPU-bbcc-3"]
    fake: Any = types.ModuleType("pynvml")
    fake.NVMLError = type("NVMLError", (Exception,), {})
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetCount = lambda: len(uuids)
    fake.nvmlDeviceGetHandleByIndex = lambda index: uuids[index]
    fake.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    fake.nvmlDeviceGetUUID = lambda handle: handle
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    return fake  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("visible", "index", "expected"),
    [
        (None, 1, "GPU-bbbb-2"),
        ("2,0", 0, "GPU-bbcc-3"),
        ("2,0", 1, "GPU-aaaa-1"),
        ("GPU-bbc", 0, "GPU-bbcc-3"),
        ("MIG-123", 0, "MIG-123"),
    ],
)
def test_visible_devices_are_respected(
    fake_nvml: types.ModuleType, monkeypatch: pytest.MonkeyPatch, visible: str | None, index: int, expected: str
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml_handle(index) == expected


def test_a_hidden_device_is_an_error(fake_nvml: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(ValueError, match="cuda:1 does not exist"):
        nvml_handle(1)


@pytest.mark.gpu
def test_a_tensor_on_the_gpu_is_seen() -> None:
    used_before_gib = memory.device_used_gib("cuda:0")
    allocated_before_gib = torch.cuda.memory_allocated("cuda:0") / memory.BYTES_PER_GIB  # by other tests
    held = torch.ones(512 * 1024**2, dtype=torch.uint8, device="cuda:0")
    with PeakMemory("cuda:0", used_before_gib=used_before_gib) as peak:
        torch.ones(1024**3, dtype=torch.uint8, device="cuda:0")
    summary = peak.summary
    assert summary.allocated_gib is not None
    assert summary.allocated_gib - allocated_before_gib == pytest.approx(1.5, abs=0.05)
    assert summary.reserved_gib is not None
    assert summary.peak_vram_gib >= summary.reserved_gib - 0.05
    assert summary.device_total_gib is not None
    assert summary.peak_vram_gib < summary.device_total_gib
    assert held.numel()
