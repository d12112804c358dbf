"""In how much of a call the GPU was busy."""

import pytest
import torch
from paretune.objectives.measuring.gpu_busy import covered_ns, gpu_busy, kernel_kind


def test_what_overlaps_counts_once() -> None:
    assert covered_ns([]) == 0
    assert covered_ns([(10, 20), (15, 30), (40, 50), (41, 42)]) == 30
    assert covered_ns([(40, 50), (10, 20)]) == 20


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32", "convolution"),
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_bias_TNT", "matrix product"),
        ("triton_red_fused_native_group_norm_silu_7", "triton"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4>", "other"),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert kernel_kind(name) == kind


@pytest.mark.gpu
def test_a_call_that_keeps_the_gpu_waiting_is_seen() -> None:
    import time

    square = torch.ones(2048, 2048, device="cuda")

    def call() -> None:
        for _ in range(5):
            torch.mm(square, square)
        torch.cuda.synchronize()
        time.sleep(0.2)

    call()
    found = gpu_busy(call)
    assert found["kernels"] >= 5
    assert 0 < found["busy_ms"] < 100
    assert found["by_kind_ms"]
