"""The Triton kernels: what they compute on the device, and nothing of who launches them."""
