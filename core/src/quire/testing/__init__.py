"""The conformance kit: a contract suite per plugin kind, to be subclassed by whoever writes one.

Needs the extra `quire[testing]`; import the suite's own module, e.g. `quire.testing.model`.
"""
