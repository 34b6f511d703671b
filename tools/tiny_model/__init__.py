"""The parts of the tool that trains Quire's bundled demo models; `train_tiny.py` is its command line."""
