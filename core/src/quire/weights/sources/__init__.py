"""Model sources of the core: a local directory and the Hugging Face hub."""
