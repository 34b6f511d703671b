"""One module per engine, run inside that engine's own environment; none knows the others."""
