"""Whether Triton interprets kernels on the CPU rather than compiling them (`TRITON_INTERPRET=1`).

That is settled when a kernel is decorated, so it is asked of a kernel and not of the environment.
"""

from __future__ import annotations

from triton.runtime.interpreter import InterpretedFunction

from quire_kernels_triton.peak import chunk_peak_kernel

INTERPRETED: bool = isinstance(chunk_peak_kernel, InterpretedFunction)
