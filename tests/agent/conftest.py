"""One launched study of the tiny pipeline, which many tests look at."""

from pathlib import Path

import pytest
from support.launched import Cli, Launched
from support.launching import BAD_TECHNIQUES, tiny_study, write_study
from support.replayed_cli import ReplayedCli

MIXED_SPACE = {
    "files": [BAD_TECHNIQUES],
    "techniques": {"channels_last": {}, "deepcache": {}, "vae_slicing": {}, "repaint": {}, "fail": {}},
    "presets": [[{"deepcache": {"interval": 2, "branch": 1}}], [{"repaint": {}}], [{"fail": {}}]],
}


@pytest.fixture(scope="session")
def launched(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Five trials: the reference, a good one, one with other pictures, one that fails, one the sampler chose."""
    folder = tmp_path_factory.mktemp("launched")
    content = tiny_study(tiny_model, space=MIXED_SPACE, limits={"verdict": "near-lossless"})
    study = Launched(write_study(folder / "tiny.yaml", content), f"sqlite:///{folder}/paretune.db")
    study.launch(5)
    return study


@pytest.fixture
def study(tmp_path: Path, cli: Cli) -> ReplayedCli:
    """The command line over a study that is replayed into a database of its own."""
    return ReplayedCli(tmp_path / "study", cli)
