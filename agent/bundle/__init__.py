"""What ships: the bundle of one configuration, with its evidence, and the check that it still does what that says."""

from .export import bundle_readme, export
from .manifest import MANIFEST, SCHEMA_VERSION, files_of, read_manifest
from .verify import verify

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "bundle_readme",
    "export",
    "files_of",
    "read_manifest",
    "verify",
]
