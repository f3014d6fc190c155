"""2.3 data.version: Lance tables whose versions are named by the digest of their rows, not of their files.

A uri is `lance/<name>.lance?version=N`: the number is this store's own. What two machines agree on is the digest.
"""

from longrein.data.version.column import add_columns
from longrein.data.version.compare import Change, changes, diff
from longrein.data.version.content import Digest
from longrein.data.version.delta import matched
from longrein.data.version.draft import Draft
from longrein.data.version.edit import Edit
from longrein.data.version.feed import batches_of, stream
from longrein.data.version.table import batches, columns_of, digest, find, nearest, open, rows, verify
from longrein.data.version.write import Version, commit

__all__ = [
    "Change", "Digest", "Draft", "Edit", "Version", "add_columns", "batches", "batches_of", "changes", "columns_of",
    "commit", "diff", "digest", "find", "matched", "nearest", "open", "rows", "stream", "verify",
]  # fmt: skip
