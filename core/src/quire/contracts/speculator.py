"""The speculator contract: it proposes tokens, over stable slots.

What it proposes is computed together with a request's last token and then sampled from as if it were
accepted; what comes out is never other than without it, only sooner. So a speculator may guess as it
likes. It is asked in some steps and for some slots only: whatever it keeps of a request it brings up to date
when it is asked, and never before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Speculator(ABC):
    """Proposes how requests go on.

    Must hold:
        * What is proposed for a slot depends on its context alone, not on its neighbours, nor on when it
          was asked before.
        * Between two steps a slot may have been given to another request: `remove` comes in between.
    """

    @abstractmethod
    def remove(self, slot: int) -> None:
        """Forget what is kept of a slot; nothing may be."""

    @abstractmethod
    def propose(
        self, slots: Sequence[int], counts: Sequence[int], contexts: Sequence[NDArray[np.int32]]
    ) -> list[list[int]]:
        """Tokens that may follow.

        Args:
            slots: S distinct slots.
            counts: S numbers, at least 1.
            contexts: per slot its tokens so far, prompt and output: a view that is good for this call. It
                has grown at its end since the last call, unless the slot was removed.

        Returns:
            Per slot at most `counts[s]` token ids; empty where nothing comes to mind.
        """
