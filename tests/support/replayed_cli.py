"""The command line over a replayed study."""

import json
from pathlib import Path
from typing import Any

from paretune.agent.results import Results

from .launched import Cli, Said
from .replayed import NAME, replay, timed_again, url_of

UNCONFIRMED = ("--limit", "latency_ms<400")
"""Conditions that only trial 7 keeps: it ties with the best one, and was not in the blocks."""


class ReplayedCli:
    """A replayed study, and the command line over it."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.folder = folder
        self.cli = cli
        folder.mkdir()
        self.results: Results = replay(folder, device="cuda")

    def __call__(self, command: str, *arguments: str) -> Said:
        return self.cli(command, NAME, *arguments, "--storage", url_of(self.folder))

    def json(self, *arguments: str) -> Any:
        return json.loads(self("best", "--json", *arguments).out)

    def change_calls(self, trial: int, **of_a_shape: Any) -> None:
        """Write that one trial was measured again, with other figures of its timed calls."""
        shapes = self.results.trial(trial).measurements["latency"]
        timed_again(self.results, trial, latency=[{**shape, **of_a_shape} for shape in shapes])
