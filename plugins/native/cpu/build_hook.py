"""Hatchling's hook: compiles the library when the package is built or installed.

Without a compiler the package still installs: the reason is kept in the library's place, and `quire doctor`
prints it.
"""

from __future__ import annotations

import platform
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).parent / "src" / "quire_native_cpu"


class CustomBuildHook(BuildHookInterface[Any]):
    """Compiles into the package's `lib/`, from where wheels take it and editable installs load it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel, editable or not, is put together."""
        if self.target_name != "wheel":
            return
        module = runpy.run_path(str(PACKAGE / "compile.py"))
        build = module["compile_library"]()
        if build.error is None:
            self.app.display_info(f"Compiled for {', '.join(build.names)} with {build.compiler}")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{module['platform_tag'](platform.system(), platform.machine())}"
        else:
            self.app.display_warning(f"Not compiled, Quire will take slower paths: {build.error}")
