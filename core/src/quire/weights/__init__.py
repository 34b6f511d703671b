"""Weights and model files: where they come from, and their way from disk to the layers."""
