"""What ships: the bundle of one configuration, with its evidence, and the check that it still does what that says."""

from .export import bundle_readme, export
from .manifest import SCHEMA_VERSION, entries_of, files_of, read_manifest
from .proof import prove
from .reading import Bundle, open_bundle
from .signing import make_keys, trust_file
from .trial_code import WAY, with_compiled_code
from .trust import MANIFEST
from .verify import Verification, verify

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "WAY",
    "Bundle",
    "Verification",
    "bundle_readme",
    "entries_of",
    "export",
    "files_of",
    "make_keys",
    "open_bundle",
    "prove",
    "read_manifest",
    "trust_file",
    "verify",
    "with_compiled_code",
]
