"""A launched study, and what the command line said."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.agent.results import Results, Trial
from paretune.agent.search import Event, launch
from paretune.search_space import Configuration
from paretune.studies import Records, read_study


@dataclass
class Launched:
    """A study in its folder."""

    file: Path
    storage: str
    events: list[Event] = field(default_factory=list)

    def launch(self, trials: int) -> Results:

        return launch(read_study(str(self.file)), storage=self.storage, trials=trials, on_event=self.events.append)

    def results(self) -> Results:
        """As they are in the database now."""
        return Results(Records(self.storage), "tiny")

    def trial(self, techniques: dict[str, dict[str, Any]]) -> Trial:
        found = self.results().of(Configuration.of(techniques))
        assert found is not None
        return found


@dataclass
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one sentence of an error: on stderr, exit code 2, no traceback."""
        assert self.code == 2, (self.out, self.err)
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.out
        return lines[0].removeprefix("error: ")


Cli = Callable[..., Said]
