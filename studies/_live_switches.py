"""Switches of the process that a session has set, as statements that set them again where trials run."""

from typing import Any

from ..search_space import described_switches
from ._errors import UserError

_OF_EACH_LIBRARY = "of each library"
_AT_FIRST = {
    "float32_matmul_precision": "highest",
    "cudnn_conv_float32": "tf32",
    "mkldnn_matmul_float32": "ieee",
    "cudnn_benchmark": False,
    "fp16_accumulation": False,
    "fp16_reduction": "True",
    "bf16_reduction": "True",
    "flash_attention": True,
    "efficient_attention": True,
    "cudnn_attention": True,
    "math_attention": True,
    "deterministic": False,
    "default_dtype": "torch.float32",
}
"""As torch has them when it is imported."""
_SET = {
    "cudnn_benchmark": "torch.backends.cudnn.benchmark = {}",
    "fp16_accumulation": "torch.backends.cuda.matmul.allow_fp16_accumulation = {}",
    "fp16_reduction": "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = {}",
    "bf16_reduction": "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = {}",
    "flash_attention": "torch.backends.cuda.enable_flash_sdp({})",
    "efficient_attention": "torch.backends.cuda.enable_mem_efficient_sdp({})",
    "cudnn_attention": "torch.backends.cuda.enable_cudnn_sdp({})",
    "math_attention": "torch.backends.cuda.enable_math_sdp({})",
    "deterministic": "torch.use_deterministic_algorithms({})",
    "default_dtype": "torch.set_default_dtype({})",
}


def switch_statements() -> list[str]:
    """Lines of Python, for a process that has just imported torch. Raises UserError for what has none."""
    now = described_switches()
    return [*_of_float32(now), *(line.format(now[name]) for name, line in _SET.items() if now[name] != _AT_FIRST[name])]


def _of_float32(now: dict[str, Any]) -> list[str]:
    """How products of float32 numbers are computed: the older way to say it sets several libraries at once."""
    if now["float32_matmul_precision"] == _OF_EACH_LIBRARY:
        raise UserError(
            "this session has set fp32_precision in torch.backends, which trials would not have: do that in a function "
            "load(device) that makes the pipelines, and give it in their place"
        )
    lines = []
    if (precision := now["float32_matmul_precision"]) != _AT_FIRST["float32_matmul_precision"]:
        only_cuda = precision == "high" and now["mkldnn_matmul_float32"] == _AT_FIRST["mkldnn_matmul_float32"]
        matmul = "torch.backends.cuda.matmul.allow_tf32 = True"
        lines.append(matmul if only_cuda else f"torch.set_float32_matmul_precision({precision!r})")
    if now["cudnn_conv_float32"] != _AT_FIRST["cudnn_conv_float32"]:
        lines.append(f"torch.backends.cudnn.allow_tf32 = {now['cudnn_conv_float32'] == 'tf32'}")
    return lines
