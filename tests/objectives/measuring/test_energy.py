"""Energy and cost: a faked counter, and a GPU where there is one."""

import sys
import types
from typing import Any

import pytest
import torch
from paretune.objectives.measuring.energy import EnergyMeter, cost_per_1000_images
from paretune.objectives.measuring.memory import nvml_handle

HANDLE = object()


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake: Any = types.ModuleType("pynvml")
    fake.NVMLError = type("NVMLError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.mark.parametrize(("counter_mj", "joules"), [((5000, 7500), 2.5), ((5000, 5000), 0.0), ((5000, 10), None)])
def test_the_counters_difference_in_joules(nvml: Any, counter_mj: tuple[int, int], joules: float | None) -> None:
    readings = iter(counter_mj)
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(readings)
    with EnergyMeter(HANDLE) as energy:
        pass
    assert energy.joules == joules


def test_without_a_counter_there_is_no_figure(nvml: Any) -> None:
    def unsupported(handle: object) -> int:
        raise nvml.NVMLError("not supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = unsupported
    for handle in (HANDLE, None):
        with EnergyMeter(handle) as energy:
            pass
        assert energy.joules is None


def test_cost() -> None:
    assert cost_per_1000_images(1.8, 4.0) == pytest.approx(2.0)  # 2000 pictures an hour
    assert cost_per_1000_images(1.8, 0) == 0
    for seconds, price in ((-1, 4), (float("nan"), 4), (1, float("inf")), (1, -4)):
        with pytest.raises(ValueError, match="finite and not negative"):
            cost_per_1000_images(seconds, price)


@pytest.mark.gpu
def test_a_busy_gpu_takes_energy() -> None:
    matrix = torch.ones(8192, 8192, device="cuda", dtype=torch.float16)
    with EnergyMeter(nvml_handle(0)) as energy:
        for _ in range(300):
            matrix @ matrix
        torch.cuda.synchronize()
    assert energy.joules is not None
    assert 10 < energy.joules < 10_000
