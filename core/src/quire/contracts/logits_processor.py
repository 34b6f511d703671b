"""The logits-processor contract: edits of the model's logits before anything is sampled, over stable slots.

For what `SamplingParams` has no name for. A processor is activated by the configuration, never by a
request; a request may only give those that are active their arguments, in `SamplingParams.extra_args`.

Order: active processors as the configuration lists them, then a grammar's mask, then the sampler with its own
processors. Log probabilities that a request asks for are of the logits before all of this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quire.contracts.base import DeviceSpec, Need
from quire.errors import PluginError

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from quire.contracts.sampler import SampleRows
    from quire.ops import Kernels
    from quire.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsProcessorSpec(DeviceSpec):
    """Description of a logits processor; `target` is a `LogitsProcessor` subclass.

    Attributes:
        arguments: "module:PydanticModel" of what a request may say to it: the model's fields are keys of
            `SamplingParams.extra_args`. None if there is nothing to say. Imported where requests come in.
    """

    arguments: str | None = None

    def __post_init__(self) -> None:
        DeviceSpec.__post_init__(self)
        if self.arguments is not None and ":" not in self.arguments:
            raise PluginError(
                f"Plugin {self.name!r}: arguments {self.arguments!r} is malformed: write "
                "'package.module:Model'."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsProcessorNeed(Need):
    """What the engine asks of a logits processor.

    Attributes:
        vocab_size: width of the logits.
    """

    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsProcessorInit:
    """What a processor is constructed with, once per worker.

    Attributes:
        need: the need it did not reject.
        device: torch device string of the logits.
        max_num_seqs: slots are 0 .. max_num_seqs - 1.
        kernels: of the engine.
        options: its validated options model, or None.
    """

    need: LogitsProcessorNeed
    device: str
    max_num_seqs: int
    kernels: Kernels
    options: BaseModel | None = None


class LogitsProcessor(ABC):
    """Edits logits, batch-wise.

    Must hold:
        * A row's edit depends only on its own slot, its position, the tokens before it and its logits, never
          on its neighbours or their number.
        * `process` changes no per-slot state; only `add`, `remove` and `commit` do. So a step can be
          repeated row by row when one row fails.
        * Requests that it has nothing to do for cost nothing: `add` says so.
    """

    @classmethod
    def reject(cls, need: LogitsProcessorNeed) -> str | None:
        """The reason this processor cannot serve `need`, or None."""
        return None

    def __init__(self, init: LogitsProcessorInit) -> None:
        self.init = init

    @abstractmethod
    def add(
        self, slot: int, params: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int]
    ) -> bool:
        """Seat a request. `output_ids` is not empty when it resumes after preemption.

        Whatever the slot held before is dropped.

        Returns:
            False if it has nothing to do for this request: then it hears no more of it.
        """

    @abstractmethod
    def remove(self, slot: int) -> None:
        """Free a slot for which `add` said True."""

    @abstractmethod
    def process(self, logits: torch.Tensor, rows: SampleRows, draft_ids: torch.Tensor | None = None) -> None:
        """Edit the logits in place.

        Args:
            logits: `[R, V]` fp32; -inf excludes a token. To be written to.
            rows: slot and position of each row; every slot is one for which `add` said True.
            draft_ids: `[R]` int64 on the host, the draft token that precedes each row within this step (any
                for a row that none does); None without speculation. A row's tokens so far are those
                committed, then its drafts: those of the rows before it in its chain, and its own.
        """

    @abstractmethod
    def commit(self, slots: Sequence[int], ids: Sequence[int], counts: Sequence[int]) -> None:
        """Record accepted tokens: `counts[i]` tokens of slot `slots[i]`, ids concatenated in order."""
