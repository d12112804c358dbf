"""What a metric with weights may lack, a package or a file, as one sentence that says what to do."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor


@contextmanager
def needs_package(metric: str, package: str) -> Iterator[None]:
    """Around an import: turns any failure into a ValueError with the name that pip knows."""
    try:
        yield
    # Not only ImportError: a torchvision built for another torch raises RuntimeError.
    except Exception as error:
        raise ValueError(
            f"{metric} needs the package {package}, which cannot be imported here ({_reason(error)}): "
            f"pip install {package}"
        ) from error


@contextmanager
def needs_weights(metric: str, path: Path, weights: str) -> Iterator[None]:
    """Around reading a model from `path`: turns any failure into a ValueError that says what must be there.

    A full GPU is not the path's fault and stays torch.OutOfMemoryError.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path} does not hold what {metric} needs, {weights}: {_reason(error)}") from error


def require_files(folder: Path, *names: str) -> None:
    """Raise FileNotFoundError unless the folder holds all of them."""
    if not folder.is_dir():
        raise FileNotFoundError("there is no such folder")
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        raise FileNotFoundError(f"{' and '.join(absent)} not found")


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of what torch.save wrote; on the CPU.

    Raises whatever a missing or damaged file makes the reader raise.
    """
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} not found"
    if isinstance(error, pickle.UnpicklingError):  # torch's own text advises to load it unsafely
        return "a file is damaged, or holds more than tensors"
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__
