"""Quire's C++ for processors, compiled for several instruction sets; the best one is loaded.

A library for Quire's CPU plugins, and no plugin itself: it registers nothing.
"""

from __future__ import annotations

from quire_native_cpu.library import InstructionSet, Library, UnavailableError, available, load, supported

__all__ = ["InstructionSet", "Library", "UnavailableError", "available", "load", "supported"]
