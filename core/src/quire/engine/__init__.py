"""The engine: planning what to load, the core loop, its clients, `LLM` and `AsyncLLM`. Knows no HTTP."""
