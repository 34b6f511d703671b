"""A Quire plugin; see README.md."""
