"""Longrein holds the reins of a large language model over its whole life.

`import longrein as lr`, then `lr.open()` for the workspace around this folder.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longrein.core.errors import Error as Error
    from longrein.workspace import Workspace as Workspace
    from longrein.workspace import open as open

__version__ = "0.1.0"
__all__ = ["Error", "Workspace", "__version__", "open"]


def __getattr__(name: str) -> Any:
    # Imported when first used, so that `longrein --help` and a plugin's import of longrein.core stay quick.
    if name in ("Workspace", "open"):
        from longrein import workspace

        return getattr(workspace, name)
    if name == "Error":
        from longrein.core.errors import Error

        return Error
    raise AttributeError(f"module 'longrein' has no attribute {name!r}")
