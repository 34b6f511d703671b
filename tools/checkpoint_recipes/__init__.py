"""Quantized checkpoints as the tools that people use write them, and what they should compute."""
