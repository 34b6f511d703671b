"""The HTTP frame: keys, limits, errors, unknown fields, streaming. Knows no dialect."""
