"""The command line's frame. Commands come from plugins, the core's own included.

`quire --help` and `quire plugins` import no torch, no transformers and no pydantic: a command's
module is imported only when it runs.
"""

from __future__ import annotations

from quire.cli._main import main

__all__ = ["main"]
