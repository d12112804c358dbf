"""For every test: one thread for torch, no network, the tiny model, and only the techniques that a module loads."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.launched import Cli, Said

# Several trial processes and test processes share few cores; with more threads each waits for the others.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PARETUNE_STORAGE", None)

# A shell that runs the suite in the background has told it to ignore Ctrl-C, and processes that tests start would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where exporting notes which models this machine has: not among those of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("places")
    os.environ["PARETUNE_PLACES"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny pipeline, as `save_pretrained` writes it."""
    from paretune.testing import tiny_sdxl

    folder = tmp_path_factory.mktemp("model") / "tiny-sdxl"
    tiny_sdxl().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def own_techniques_of_this_module_only() -> Iterator[None]:
    """Own techniques and metrics stay known to the process that loaded them; the next module starts without them."""
    from paretune.objectives import drift
    from paretune.search_space import forget_techniques

    yield
    forget_techniques()
    drift._own.clear()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Cli":
    """Run the command line in this process."""

    from paretune.agent.cli import main
    from support.launched import Said

    def run(*arguments: str) -> "Said":
        monkeypatch.setattr(sys, "argv", ["paretune", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "300")
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        return Said(code, *capsys.readouterr())

    return run
