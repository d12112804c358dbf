"""Bundles that are exported from the dashboard, each in the background, one after the other."""

import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from ....studies import UserError, fault_sentence, without_secrets
from ...bundle import export
from ...results import Results
from .shelf import Shelf


@dataclass(frozen=True)
class Export:
    """One bundle on its way."""

    state: str
    """ "waiting", "running", "done", "failed"."""
    text: str = ""
    """What is being done, or why it failed."""
    done: int = 0
    total: int = 1
    folder: str = ""
    archive: str = ""


class Exports:
    """Of one running server."""

    def __init__(self, shelf: Shelf, folder: Path) -> None:
        """folder: where the bundles go."""
        self._shelf = shelf
        self._folder = folder
        self._known: dict[tuple[str, int], Export] = {}
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def folder_of(self, study: str, number: int) -> Path:
        """Where the bundle of a trial goes."""
        return self._folder / f"{study}-trial-{number}"

    def state(self, study: str, number: int) -> Export | None:
        """How far it is; None when it was not asked for."""
        with self._lock:
            return self._known.get((study, number))

    def start(self, study: str, number: int, *, unconfirmed: bool) -> Export:
        """Begin, unless it is on its way already."""
        with self._lock:
            known = self._known.get((study, number))
            if known is not None and known.state in ("waiting", "running"):
                return known
            begun = self._known[study, number] = Export("waiting", "waiting for another export")
        arguments = (study, number, unconfirmed)
        threading.Thread(target=self._run, args=arguments, name=f"export {study} {number}", daemon=True).start()
        return begun

    def _run(self, study: str, number: int, unconfirmed: bool) -> None:
        key = study, number
        folder = self.folder_of(study, number)

        def say(done: int, total: int, text: str) -> None:
            self._set(key, Export("running", text, done, total + 1))

        with self._one_at_a_time:
            try:
                say(0, 1, "reading the study")
                results = Results(self._shelf.records, study)
                export(results, results.trial(number), folder, unconfirmed=unconfirmed, on_step=say)
                known = self.state(*key) or Export("running")
                self._set(key, replace(known, text="writing the zip file", done=known.total - 1))
                archive = _zipped(folder)
                self._set(key, Export("done", "exported", 1, 1, str(folder), str(archive)))
            except UserError as error:
                self._set(key, Export("failed", without_secrets(str(error))))
            except Exception as error:
                sentence = fault_sentence(error) or f"{type(error).__name__}: {error}"
                self._set(key, Export("failed", without_secrets(sentence)))

    def _set(self, key: tuple[str, int], export: Export) -> None:
        with self._lock:
            self._known[key] = export


def _zipped(folder: Path) -> Path:
    """One file beside the folder, put there whole: whoever downloads the last one keeps what they began with."""
    archive = folder.with_name(f"{folder.name}.zip")
    draft = shutil.make_archive(f"{folder}.draft", "zip", root_dir=folder.parent, base_dir=folder.name)
    return Path(draft).replace(archive)
