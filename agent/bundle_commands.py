"""The commands that need a bundle, or a key for one, and no database."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..studies import UserError
from .options import AsJson, model_folders
from .output import MaskedConsole, print_json, say

console = MaskedConsole()

RUNS_CODE = (
    "Verifying runs the code in the bundle, as you. Verify only bundles from people you trust; the manifest finds "
    "damage, not forgery."
)


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="PIPELINE=FOLDER of a model that is not in the bundle; remembered here."),
    ] = None,
    trusted_key: Annotated[
        Path | None, typer.Option(help="Run nothing unless the bundle is signed with this public key's other half.")
    ] = None,
    cold: Annotated[
        bool,
        typer.Option("--cold", help="Prove that nothing is compiled: empty caches, every request twice, no timing."),
    ] = False,
    starts: Annotated[
        int, typer.Option(min=0, max=100, help="With --cold: so many cold starts by phase, with and without artefacts.")
    ] = 0,
    ray: Annotated[
        str | None,
        typer.Option(help="Verify at every free GPU of the Ray cluster with this head (HOST:6379, auto)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a bundle in a fresh process without paretune and compare with its evidence. Exit code 1 when it differs.

    This runs the code in the bundle, as you: verify only bundles from people you trust. The manifest finds damage, not
    forgery: whoever changes a file can write a new manifest. With --trusted-key nothing of it is run unless whoever has
    the private key exported it.
    """
    from .bundle import prove
    from .bundle import verify as repeat

    if starts and not cold:
        raise UserError("--starts measures cold starts: add --cold")
    run = partial(prove, starts=starts) if cold else repeat
    if not as_json and trusted_key is None:
        say(RUNS_CODE)
    models = model_folders(model or [])
    if ray is not None:
        if cold:
            raise UserError("--cold verifies on this machine: leave out --ray")
        raise typer.Exit(0 if _verify_at(ray, folder, models, trusted_key, as_json) else 1)
    with console.status("verifying") as status:
        verification = run(folder, models=models, trusted_key=trusted_key, on_step=lambda text: status.update(text))
    if as_json:
        note = {} if trusted_key is not None else {"note": RUNS_CODE}
        print_json({"passed": verification.passed, **asdict(verification), **note})
    else:
        for check in verification.checks:
            mark = "[green]pass[/green]" if check.passed else "[red]differs[/red]"
            console.print(f"{mark}  {check.name}: {escape(check.text)}", soft_wrap=True)
        console.print("The bundle passes." if verification.passed else "The bundle differs from its evidence.")
    raise typer.Exit(0 if verification.passed else 1)


def _verify_at(address: str, folder: Path, models: dict[str, Path], trusted_key: Path | None, as_json: bool) -> bool:
    """At every place of a cluster; whether the bundle passes at all of them."""
    from .measuring import Cluster, verify_everywhere

    with Cluster(address=address) as cluster:
        found = verify_everywhere(
            cluster,
            folder,
            models=models,
            trusted_key=trusted_key,
            on_place=lambda one: None if as_json else say(one.line()),
        )
    passed = sum(one.passed for one in found)
    if as_json:
        note = {} if trusted_key is not None else {"note": RUNS_CODE}
        print_json({"passed": passed == len(found), "places": [one.to_dict() for one in found], **note})
    else:
        say(f"The bundle passes at {passed} of {len(found)} places.")
    return passed == len(found)


def keygen(
    file: Annotated[Path, typer.Argument(help="Where the private key goes, such as signing.pem.")],
) -> None:
    """Make a pair of Ed25519 keys: FILE signs bundles (export --sign), and its .pub file is what workers trust."""
    from .bundle import make_keys

    public = make_keys(file)
    say(
        f"{file} is the private key: whoever has it can sign bundles, so keep it away from workers. "
        f"{public} is the public key: give it to them."
    )
