"""The speculator contract: it proposes tokens, over stable slots.

What it proposes is computed together with a request's last token and then sampled from as if it were
accepted; what comes out is never other than without it, only sooner. So a speculator may guess as it
likes. It is asked in some steps and for some slots only: whatever it keeps of a request it brings up to date
when it is asked, and never before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from quire.contracts.base import DeviceSpec, Need

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from quire.contracts.draft_model import DraftModel
    from quire.contracts.quantization import TensorHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculatorSpec(DeviceSpec):
    """Description of a speculator; `target` is a `Speculator` subclass. Chosen by name alone.

    Attributes:
        takes_model: it needs a draft model; else it takes none.
    """

    takes_model: bool = False

    def reject(self, need: Need) -> str | None:
        """Refuses a draft model that it takes none of, and the lack of one that it needs."""
        model = getattr(need, "model", None)
        if self.takes_model and model is None:
            return "it needs a draft model: give speculative_config a 'model'"
        if not self.takes_model and model is not None:
            return f"it takes no draft model: leave 'model' ({model!r}) out of speculative_config"
        return DeviceSpec.reject(self, need)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculatorNeed(Need):
    """What the engine asks of a speculator.

    Attributes:
        vocab_size: token ids are below it.
        num_speculative_tokens: most tokens asked for at a time.
        model: draft model as the user named it, None without one.
    """

    vocab_size: int
    num_speculative_tokens: int
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculatorInit:
    """What a speculator is constructed with, once per worker.

    Attributes:
        need: the need it did not reject.
        device: torch device string of the worker.
        max_num_seqs: slots are 0 .. max_num_seqs - 1.
        max_model_len: longest context, in tokens.
        options: its validated options model, or None.
        draft_model: what was named by `need.model`, loaded; None without one.
    """

    need: SpeculatorNeed
    device: str
    max_num_seqs: int
    max_model_len: int
    options: BaseModel | None = None
    draft_model: DraftModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The model that is served, as far as one that proposes to it has to fit.

    Attributes:
        hidden_size: H.
        num_depths: hidden states that its layers can tell, one more than there are layers (see
            `quire.layers.Tap`); 0 if they tell none.
        vocab_size: width of its logits.
        max_model_len: tokens of the longest sequence.
    """

    hidden_size: int
    num_depths: int
    vocab_size: int
    max_model_len: int


class Speculator(ABC):
    """Proposes how requests go on.

    Must hold:
        * What is proposed for a slot depends on its context and count alone, not on its neighbours, nor on
          when it was asked before.
        * Between two steps a slot may have been given to another request: `remove` comes in between.

    Attributes:
        torch_files: its draft models are also published as `pytorch_model.bin` alone, and may come so.
    """

    torch_files: ClassVar[bool] = False

    @classmethod
    def reject(cls, need: SpeculatorNeed) -> str | None:
        """The reason this speculator cannot serve `need`, or None."""
        return None

    @classmethod
    def model_config(
        cls, config: Mapping[str, Any], headers: Mapping[str, TensorHeader], served: ServedModel
    ) -> Mapping[str, Any]:
        """config.json of its model, as the plugin that serves this is to see it. As it is, if not overridden.

        Args:
            config: as it was found.
            headers: of the model's checkpoint, by the names there; empty where weights are made up.
            served: the model that it will propose to.

        Raises:
            ModelError: the checkpoint is of another kind, or does not fit; the message names what, and what
                would do.
        """
        return config

    def __init__(self, init: SpeculatorInit) -> None:
        self.init = init

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
