"""What ships: the bundle of one configuration, with its evidence, and the check that it still does what that says."""

from .export import export
from .manifest import MANIFEST, SCHEMA_VERSION, files_of, is_bundle, read_manifest
from .readme import bundle_readme
from .verify import Check, Verification, verify

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "Check",
    "Verification",
    "bundle_readme",
    "export",
    "files_of",
    "is_bundle",
    "read_manifest",
    "verify",
]
