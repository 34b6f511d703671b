"""The parts of `bench/gpu.py`: what is measured on a GPU, what bounds it, and how it is told."""
