"""`python -m quire_native_cpu`: compile anew what changed."""

from __future__ import annotations

import sys

from quire_native_cpu.compile import compile_library

if __name__ == "__main__":
    build = compile_library()
    print(build.error or f"Compiled for {', '.join(build.names)} with {build.compiler}")
    sys.exit(build.error is not None)
