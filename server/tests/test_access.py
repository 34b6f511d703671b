"""Who may ask for what: every route of every front end, odd paths, keys from settings and files."""

from __future__ import annotations
