"""Compiled code for a trial, beside its apply.py as in a bundle: to measure how it starts before it is exported."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...objectives.measuring.building import WAYS
from ..trial import COMPILED, PICTURES, empty_caches, run_script, write_json
from .manifest import SCHEMA_VERSION, entries_of
from .signing import trust_file
from .trust import ARTEFACTS, MANIFEST

WAY = WAYS[0]
"""In which it is built; export tries the others too."""


@contextmanager
def with_compiled_code(folder: Path, device: str, packages: Sequence[str], timeout_s: float) -> Iterator[Path | None]:
    """A copy of a trial's folder with the code that its requests need, built in a fresh process; None where that cannot
    be built. packages: whose versions it depends on, beside torch's.
    """
    with tempfile.TemporaryDirectory(prefix="paretune-code-") as scratch:
        copy = Path(scratch) / "trial"
        usable: Path | None = copy
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(COMPILED, PICTURES, "latents"))
        shutil.copyfile(trust_file(), copy / "trust.py")
        options = ["--device", device, "--build", WAY, "--artefacts", str(copy / ARTEFACTS), "--packages", *packages]
        try:
            with empty_caches() as caches:
                out = Path(scratch) / "build"
                run_script(copy / "run.py", options, out=out, environment=caches, timeout_s=timeout_s)
        except (RuntimeError, TimeoutError):
            usable = None
        else:
            write_json(copy / MANIFEST, {"schema": SCHEMA_VERSION, "files": entries_of(copy)})
        yield usable
