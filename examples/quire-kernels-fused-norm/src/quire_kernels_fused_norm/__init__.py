"""Tells Quire that the plugin exists."""

from quire.contracts import KernelsSpec, hookimpl


@hookimpl
def quire_kernels():
    """Yield the one spec of this package."""
    yield KernelsSpec(name="fused-norm", api=1, target="quire_kernels_fused_norm.kernels:FusedNormKernels")
