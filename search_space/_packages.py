"""How the packages are installed that some techniques need: hardly any is a wheel that fits every torch."""

from importlib import metadata

from packaging.requirements import Requirement

COMMANDS = {
    "torchao": "pip install 'paretune[torchao]'",
    "peft": "pip install 'paretune[adapters]'",
    # A source distribution, built beside the torch that is there: with its CUDA kernels where torch has CUDA and finds
    # nvcc and the headers; elsewhere its tracing and its CUDA graphs remain. New environments lack what builds it.
    "stable-fast": (
        "pip install setuptools wheel ninja && WITH_CUDA=$(python -c 'import os; "
        "from torch.utils.cpp_extension import CUDA_HOME as home; "
        'print(int(all(os.path.isfile(f"{home}/{file}") for file in ("bin/nvcc", "include/cuda_runtime.h"))))\') '
        "BUILD_VERSION=1.0.5 pip install --no-deps --no-build-isolation stable-fast==1.0.5"
    ),
    # Each of its versions is for one minor version of torch.
    "torch-tensorrt": "pip install \"torch-tensorrt==$(python -c 'import torch; print(torch.__version__[:4])').*\"",
    "flash-attn>=2.6.3": "pip install --no-build-isolation 'flash-attn>=2.6.3'",
    # The package index has a placeholder of that name.
    "flash-attn-3>=3.0.0b1": (
        "pip install --no-build-isolation 'git+https://github.com/Dao-AILab/flash-attention.git#subdirectory=hopper'"
    ),
    # The package index stops at 1.0.6.
    "sageattention>=2.1.1": "pip install --no-build-isolation git+https://github.com/thu-ml/SageAttention.git",
}


def how_to_install(package: str) -> str:
    """The command that installs a package, named as techniques name it."""
    return COMMANDS.get(package, f"pip install '{package}'")


def is_installed(package: str) -> bool:
    """Whether a package is installed, in the version that its name asks for."""
    requirement = Requirement(package)
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
