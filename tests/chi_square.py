"""Whether tokens were drawn from a distribution: Pearson's chi-square test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from quire import RequestOutput

LIMITS = {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 5: 20.5, 6: 22.5, 7: 24.3, 8: 26.1}
"""By degrees of freedom, what is exceeded once in a thousand."""


def second_tokens(outputs: Sequence[RequestOutput]) -> tuple[int, Counter[int]]:
    """The first token that most outputs begin with, and what follows it in these."""
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    first = Counter(one[0] for one in tokens).most_common(1)[0][0]
    return first, Counter(one[1] for one in tokens if one[0] == first)


def assert_drawn_from(found: Counter[int], shares: Mapping[int, float]) -> None:
    """Hold counts of tokens against the shares that they should have, which name all there may be."""
    assert set(found) <= set(shares)
    total = sum(found.values())
    assert total > 150
    chi_square = sum((found[token] - total * share) ** 2 / (total * share) for token, share in shares.items())
    assert chi_square < LIMITS[len(shares) - 1]
