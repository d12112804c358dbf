"""Asks the bundle's trust.py before its compiled code is loaded.

Exported with every apply.py that loads artefacts.
"""

from typing import Any


def trusted(artefacts: Any, pipelines: dict[str, Any], *, on_miss: str, strict: bool, trusted_key: Any) -> Any:
    """The folder `artefacts`, when its compiled code may be loaded for these pipelines; None, after a warning that
    names every difference, when it was built for something else.

    trust.py, which lies beside apply.py, compares the signature, the files and the fingerprint, in this order, and
    raises its ArtefactError, a RuntimeError: see there. What is being built ("build") was never exported.
    """
    import pathlib
    import sys
    import types

    if artefacts is None:
        if trusted_key is not None:
            raise RuntimeError("trusted_key says whose artefacts are loaded: give artefacts too, or leave it out")
        return None
    if on_miss == "build":
        if trusted_key is not None:
            raise RuntimeError("what is being built is not signed yet: leave out trusted_key")
        return artefacts
    # Compiled from its source: byte code that lies beside it may be of something else.
    file = pathlib.Path(__file__).with_name("trust.py")
    try:
        source = file.read_bytes()
    except OSError:
        raise RuntimeError(f"artefacts are loaded only after trust.py has checked them: put it at {file}") from None
    trust = types.ModuleType("trust")
    trust.__file__ = str(file)
    sys.modules["trust"] = trust
    exec(compile(source, str(file), "exec"), vars(trust))
    folder = pathlib.Path(artefacts).absolute()
    if folder.name != "artefacts" or folder.is_symlink():
        raise RuntimeError(
            f"{artefacts} is not a bundle's folder artefacts, and no other is checked before it is loaded"
        )
    return artefacts if trust.usable(folder.parent, pipelines, strict=strict, trusted_key=trusted_key) else None
