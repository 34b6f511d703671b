"""Real clients, unchanged, against a live server: `make test-clients`."""
