"""Requests with drafts among a step's logits: several rows each, and which of the drawn tokens count.

A row is drawn as if the drafts before it were accepted. So they are, as long as each is what was drawn in
the row before it; the first row whose token differs is the last that counts. That token was drawn from the
target's own distribution given the tokens before it, with the same random number as without drafts: not only
the distribution, the tokens themselves are those of a request without speculation. (This is rejection
sampling, Leviathan et al. 2023 and Chen et al. 2023, for proposals that put all their weight on one token: a
draft x is kept with probability p(x), and what replaces it is drawn from p without x.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from quire.contracts import SampleRows


@dataclass(frozen=True, slots=True)
class DraftRows:
    """The rows of R = sum of (1 + drafts) that some requests sample in.

    Attributes:
        slots: the requests.
        positions: of each, where its first sampled token goes.
        drafts: of each, its drafts; some have none.
        starts: of each, its first of the R rows.
    """

    slots: list[int]
    positions: list[int]
    drafts: list[Sequence[int]]
    starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        starts, row = [], 0
        for ids in self.drafts:
            starts.append(row)
            row += 1 + len(ids)
        object.__setattr__(self, "starts", starts)

    @property
    def plain(self) -> list[int]:
        """Places of the requests without drafts."""
        return [place for place, ids in enumerate(self.drafts) if not ids]

    def rows_of(self, places: Sequence[int]) -> list[int]:
        """The rows of some of the requests, in order."""
        return [
            row
            for place in places
            for row in range(self.starts[place], self.starts[place] + 1 + len(self.drafts[place]))
        ]

    def take(self, places: Sequence[int]) -> DraftRows:
        """Some of the requests, with rows of their own."""
        return DraftRows(
            [self.slots[i] for i in places],
            [self.positions[i] for i in places],
            [self.drafts[i] for i in places],
        )

    def for_sampler(self) -> tuple[SampleRows, torch.Tensor]:
        """What the sampler is told: the rows, and the draft before each, `[R]` int64 on the host."""
        each = [(i, j) for i, ids in enumerate(self.drafts) for j in range(1 + len(ids))]
        rows = SampleRows(
            slots=[self.slots[i] for i, _ in each],
            positions=[self.positions[i] + j for i, j in each],
            draft_counts=[j for _, j in each],
        )
        before = [self.drafts[i][j - 1] if j else 0 for i, j in each]
        return rows, torch.tensor(before, dtype=torch.int64)

    def accepted(self, ids: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """What counts of the drawn ids `[R]`: per request its slot, its first row, and how many rows."""
        for slot, start, drafts in zip(self.slots, self.starts, self.drafts, strict=True):
            count = 0
            while count < len(drafts) and drafts[count] == ids[start + count]:
                count += 1
            yield slot, start, count + 1
