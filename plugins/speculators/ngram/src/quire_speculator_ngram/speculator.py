"""Prompt lookup as a speculator: an index per slot, brought up to date when its slot is asked.

The idea is that of prompt lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): text
that repeats itself, or its prompt, goes on as it did before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quire.contracts import Speculator, SpeculatorInit
from quire_speculator_ngram.index import RunIndex
from quire_speculator_ngram.options import NgramOptions


class NgramSpeculator(Speculator):
    """Proposes what followed the last tokens when they last occurred; of several lengths, the longest."""

    def __init__(self, init: SpeculatorInit) -> None:
        super().__init__(init)
        options = init.options if isinstance(init.options, NgramOptions) else NgramOptions()
        self._shortest, self._longest = options.prompt_lookup_min, options.prompt_lookup_max
        self._indexes: dict[int, RunIndex] = {}

    def remove(self, slot: int) -> None:
        self._indexes.pop(slot, None)

    def propose(
        self, slots: Sequence[int], counts: Sequence[int], contexts: Sequence[NDArray[np.int32]]
    ) -> list[list[int]]:
        return [
            self._follow(slot, count, context)
            for slot, count, context in zip(slots, counts, contexts, strict=True)
        ]

    def _follow(self, slot: int, count: int, context: NDArray[np.int32]) -> list[int]:
        index = self._indexes.get(slot)
        if index is None:
            index = self._indexes[slot] = RunIndex(self._shortest, self._longest)
        index.extend(context)
        position = index.find()
        if position is None:
            return []
        found: list[int] = context[position : position + count].tolist()
        period = len(found)  # less than count if the occurrence overlaps the end: then it repeats itself
        while len(found) < count:
            found.append(found[-period])
        return found
