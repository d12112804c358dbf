"""Where the files are that a study names: every path made absolute, and checked before anything is started."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import UserError
from ._sections import PipelineSpec

if TYPE_CHECKING:
    from ._study import Study

PLAIN_STATEMENTS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr)


def resolve_paths(study: "Study", folder: Path) -> "Study":
    """The study with every path made absolute; relative ones are taken from `folder`.

    Raises UserError for what is not there.
    """

    def resolved(text: str) -> Path:
        try:
            return (folder / Path(text).expanduser()).resolve()
        except (OSError, RuntimeError) as error:  # nobody's home, a loop of links
            raise UserError(f"study {study.name}: there is no {short(text)}: {error}") from None

    def file(what: str, text: str) -> str:
        found = resolved(text)
        if not there(found, Path.is_file):
            raise UserError(f"study {study.name}: {what}: there is no file {found}")
        return str(found)

    workload, quality = study.workload, study.quality
    weights = {name: resolved(path) for name, path in quality.weights.items()}
    for name, path in weights.items():
        if not there(path, Path.exists):
            raise UserError(f"study {study.name}: quality.weights.{name}: there is no {path}")
    requests = []
    for request in workload.requests:
        pictures = {"image": request.image, "mask_image": request.mask_image}
        found = {key: file(f"requests: {key}", named) for key, named in pictures.items() if named is not None}
        for picture in found.values():
            _check_picture(Path(picture))
        requests.append(request.model_copy(update=found))
    changed: dict[str, Any] = {"requests": requests}
    if workload.python is not None:
        python = resolved(workload.python)
        if not there(python, Path.is_file):
            raise UserError(f"study {study.name}: the workload file {python} does not exist")
        _check_python_workload(python)
        changed["python"] = str(python)
    else:
        pipelines = workload.pipelines or {}
        changed["pipelines"] = {
            name: spec.model_copy(update=_places_of(f"study {study.name}: pipeline {name}", spec, resolved))
            for name, spec in pipelines.items()
        }
    return study.model_copy(
        update={
            "workload": workload.model_copy(update=changed),
            "space": study.space.model_copy(update={"files": [str(resolved(one)) for one in study.space.files]}),
            "quality": quality.model_copy(
                update={
                    "weights": {name: str(path) for name, path in weights.items()},
                    "files": [file("quality.files", one) for one in quality.files],
                }
            ),
        }
    )


def _places_of(where: str, spec: PipelineSpec, resolved: Callable[[str], Path]) -> dict[str, Any]:
    """The keys of a pipeline that are paths, resolved. Raises UserError, beginning with `where`."""
    found: dict[str, Any] = {}
    if spec.config is not None:
        config = resolved(spec.config)
        if not there(config / "model_index.json", Path.is_file):
            raise UserError(f"{where}: {config} has no model_index.json")
        found["config"] = str(config)
    local = resolved(spec.model)
    if spec.weights == "random":  # then the model is only a name
        return {**found, "model": str(local)} if there(local, Path.is_dir) else found
    if local.suffix in (".safetensors", ".ckpt", ".bin", ".gguf"):
        raise UserError(
            f"{where}: {local.name} is a single file, and paretune loads folders: write workload.python, a file whose "
            f"load(device) returns {{'main': {spec.class_name}.from_single_file(...).to(device)}} "
            "(docs/study-file.md, A workload in Python)"
        )
    if there(local, Path.is_dir):
        if not there(local / "model_index.json", Path.is_file):
            raise UserError(f"{where}: the folder {local} has no model_index.json")
        found["model"] = str(local)
    elif spec.model.startswith((".", "/", "~")) or spec.model.count("/") != 1:
        raise UserError(f"{where}: there is no model folder {local}")
    return found


def _check_python_workload(file: Path) -> None:
    """Read it without running it: what it needs may be missing in this process, and it loads a model."""
    try:
        statements = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"the workload file {file} is not Python: {error}") from None
    except OSError as error:
        raise UserError(f"the workload file {file} cannot be read: {error.strerror}") from None
    bound = {alias.asname or alias.name for s in statements if isinstance(s, ast.ImportFrom) for alias in s.names}
    bound |= {s.name for s in statements if isinstance(s, ast.FunctionDef)}
    bound |= {target.id for s in statements for target in getattr(s, "targets", []) if isinstance(target, ast.Name)}
    for function in ("load(device)", "run(pipelines, request)"):
        # Anything but plain statements may bind names too, and then only running the file can tell.
        plain = all(isinstance(s, PLAIN_STATEMENTS) for s in statements)
        if plain and "*" not in bound and function.partition("(")[0] not in bound:
            raise UserError(f"the workload file {file} has no function {function}")


def _check_picture(file: Path) -> None:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            picture.load()
    except Exception as error:  # a damaged file may fail in any way
        raise UserError(f"{file} cannot be read as a picture: {' '.join(str(error).split())}") from None


def there(path: Path, is_what_kind: Callable[[Path], bool]) -> bool:
    """Whether there is something of a kind at a path. A name that no file can have is not there, nor is what lies in a
    folder that this user may not enter.
    """
    try:
        return is_what_kind(path)
    except (OSError, ValueError):
        return False


def short(text: str) -> str:
    """A text on one line, its end left out when it is long."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:200])
    return shown if len(text) <= 200 else f"{shown}..."
