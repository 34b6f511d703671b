"""The conformance kit: a contract suite per plugin kind, that plugin authors subclass.

Each suite is a class of pytest tests in a module of its own (`quire.testing.attention`, ...);
subclass it, give it the fixture or two it names, and run pytest. Needs the extra `quire[testing]`.
This package itself imports nothing.
"""
