"""Signed bundles: only what the holder of the private key exported is taken; everything else is one sentence."""

import base64
import json
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from paretune.agent.bundle import MANIFEST, entries_of, export, files_of, open_bundle
from paretune.studies import UserError
from support.launched import Cli
from support.replayed import NAME, replay, url_of

SIGNATURE = "manifest.json.sig"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys."""
    from paretune.agent.bundle import make_keys

    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours.pem", "theirs.pem"):
        make_keys(folder / name)
    return folder


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    folder = tmp_path_factory.mktemp("replayed")
    results = replay(folder)
    return export(results, results.trial(2), folder / "bundle", sign=keys / "ours.pem")


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


def list_anew(bundle: Path) -> None:
    """What a forger can do without the key."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "files": entries_of(bundle)}))


def change_apply(bundle: Path) -> None:
    (bundle / "apply.py").write_text("import os\n")
    list_anew(bundle)


def sign_with_another_key(bundle: Path) -> None:
    from paretune.agent.bundle.signing import read_private_key, signature_of

    key = read_private_key(bundle.parent / "keys" / "theirs.pem")
    (bundle / SIGNATURE).write_bytes(signature_of((bundle / MANIFEST).read_bytes(), key))


def cut_short(bundle: Path) -> None:
    (bundle / SIGNATURE).write_bytes((bundle / SIGNATURE).read_bytes()[:40])


FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no signature": (lambda b: (b / SIGNATURE).unlink(), "is not signed: export it again with --sign KEY"),
    "another file, listed": (change_apply, "was not signed with"),
    "another key": (sign_with_another_key, "was not signed with"),
    "half a signature": (cut_short, "was not signed with"),
    "an empty signature": (lambda b: (b / SIGNATURE).write_bytes(b""), "was not signed with"),
    "no text": (lambda b: (b / SIGNATURE).write_bytes(b"\xff" * 90), "was not signed with"),
    "zeros": (lambda b: (b / SIGNATURE).write_bytes(base64.b64encode(bytes(64))), "was not signed with"),
    "a folder": (lambda b: ((b / SIGNATURE).unlink(), (b / SIGNATURE).mkdir()), "cannot be read"),
    "a space more in the manifest": (
        lambda b: (b / MANIFEST).write_text((b / MANIFEST).read_text() + " "),
        "was not signed with",
    ),
    "a file that is not listed": (lambda b: (b / "more.py").touch(), "more.py is not part of the bundle"),
    "a flipped byte": (lambda b: (b / "apply.py").write_bytes(b"#" + (b / "apply.py").read_bytes()[1:]), "was changed"),
}


def test_what_was_signed_is_taken_and_says_so(bundle: Path, keys: Path, tmp_path: Path) -> None:
    from paretune.agent.bundle.verify import files_check

    opened = open_bundle(bundle, tmp_path / "copy", keys / "ours.pub")
    assert SIGNATURE not in opened.manifest.files
    listed = json.loads((bundle / MANIFEST).read_text())["files"]
    assert json.loads((opened.folder / MANIFEST).read_text())["files"] == listed, "artefacts are checked in the copy"
    assert SIGNATURE not in files_of(bundle)
    assert "signed with the key of" in files_check(opened, bundle, keys / "ours.pub").text
    assert "--trusted-key would check" in files_check(opened, bundle, None).text
    assert "This bundle is signed" in (bundle / "README.md").read_text()


@pytest.mark.parametrize(("change", "words"), FORGED.values(), ids=FORGED)
def test_what_was_not_signed_so_is_refused_in_one_sentence(
    change: Callable[[Path], object], words: str, bundle: Path, keys: Path, tmp_path: Path, cli: Cli
) -> None:
    shutil.copytree(keys, tmp_path / "keys")
    change(bundle)
    said = cli("verify", str(bundle), "--trusted-key", str(keys / "ours.pub"))
    assert words in said.sentence()
    assert said.code == 2


def test_the_private_key_is_for_its_owner_alone_and_nowhere_else(signed: Path, keys: Path) -> None:
    assert stat.S_IMODE((keys / "ours.pem").stat().st_mode) == 0o600
    secret = (keys / "ours.pem").read_text().splitlines()[1].encode()
    assert not [name for name in (*files_of(signed), MANIFEST, SIGNATURE) if secret in (signed / name).read_bytes()]


@pytest.mark.parametrize("file", ["ours.pub", "nothing.pem", "words.pem", "rsa.pem", "locked.pem"])
def test_what_is_no_private_key_is_refused_before_anything_is_written(
    file: str, keys: Path, signed: Path, tmp_path: Path, cli: Cli
) -> None:
    key = keys / file
    if file == "words.pem":
        key.write_text("my secret words")
    if file in ("rsa.pem", "locked.pem"):
        from cryptography.hazmat.primitives import serialization as s
        from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

        made = rsa.generate_private_key(65537, 2048) if file == "rsa.pem" else ed25519.Ed25519PrivateKey.generate()
        how = s.NoEncryption() if file == "rsa.pem" else s.BestAvailableEncryption(b"x")
        key.write_bytes(made.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, how))
    storage = url_of(signed.parent)
    said = cli("export", NAME, "-o", str(tmp_path / "b"), "--sign", str(key), "--storage", storage)
    assert str(key) in said.sentence()
    assert "secret words" not in said.out + said.err
    assert not (tmp_path / "b").exists()


def test_keys_are_made_once_and_a_private_one_is_not_trusted(tmp_path: Path, signed: Path, cli: Cli) -> None:
    file = tmp_path / "mine.pem"
    assert cli("keygen", str(file)).code == 0
    before = file.read_bytes()
    assert "exists already" in cli("keygen", str(file)).sentence()
    assert file.read_bytes() == before
    assert "no public Ed25519 key" in cli("verify", str(signed), "--trusted-key", str(file)).sentence()
    with pytest.raises(UserError, match="cannot be read"):
        open_bundle(signed, tmp_path / "copy", tmp_path / "nothing.pub")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_agrees_as_the_readme_says(bundle: Path, keys: Path) -> None:
    (bundle / "sig").write_bytes(base64.b64decode((bundle / SIGNATURE).read_bytes()))
    command = f"openssl pkeyutl -verify -pubin -inkey {keys / 'ours.pub'} -rawin -in manifest.json -sigfile sig"
    assert command.replace(str(keys / "ours.pub"), "signing.pub") in (bundle / "README.md").read_text()
    ran = subprocess.run(command.split(), cwd=bundle, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
