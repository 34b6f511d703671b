"""The sampler contract: from logits to token ids, over stable slots.

A slot is a request's seat in the worker. The sampler keeps per-slot state (parameters,
token counts) between `add` and `remove`; slots never move, and their order in a step is free.
Several rows of one step may belong to one slot (speculation, prompt logprobs).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quire.contracts.base import DeviceSpec, Need

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from quire.ops import Kernels
    from quire.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec(DeviceSpec):
    """Description of a sampler; `target` is a `Sampler` subclass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerNeed(Need):
    """What the engine asks of a sampler.

    Attributes:
        vocab_size: width of the logits.
        coupled: draws are wanted that agree: from like distributions, with the same seed and position, the
            same token as often as may be. A draft model then guesses what will be drawn. A sampler that knows
            no such draws need not reject the need: only fewer guesses are right.
    """

    vocab_size: int
    coupled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerInit:
    """What a sampler is constructed with, once per worker.

    Attributes:
        need: the need it did not reject.
        device: torch device string of the logits.
        max_num_seqs: slots are 0 .. max_num_seqs - 1.
        kernels: sample helpers of the device.
        eos_token_ids: the model's end tokens (masked while `min_tokens` is not reached and others are left).
        options: its validated options model, or None.
    """

    need: SamplerNeed
    device: str
    max_num_seqs: int
    kernels: Kernels
    eos_token_ids: tuple[int, ...] = ()
    options: BaseModel | None = None


@dataclass(slots=True)
class SampleRows:
    """Which slot and position each row of the logits is.

    Attributes:
        slots: R Python ints.
        positions: R Python ints; position in the sequence of the token *being sampled*
            (number of tokens before it), so the random stream is the same in any batch.
        draft_counts: rows r .. r + k of one slot are a draft chain; per row how many draft
            tokens precede it within this step. All zero without speculation.
    """

    slots: Sequence[int]
    positions: Sequence[int]
    draft_counts: Sequence[int] | None = None


@dataclass(slots=True)
class Distribution:
    """The target distribution of each row, after every processor. Read-only.

    Masks of a grammar belong on the logits before `process`. Whoever draws from other logits makes
    another distribution (`dataclasses.replace`): these may be the incoming ones themselves, and a
    sampler may have found a greedy row's token already.

    Attributes:
        logits: `[R, V]` processed logits, -inf where a token is excluded; softmax of a row in fp32 is the
            distribution that `draw` samples from. In a row of `greedy` only the argmax counts. They are
            fp32, or of the incoming dtype if no processor had to change any.
        greedy: R booleans on the host; True where the row takes its argmax.
        invalid: `[R]` bool on the device; True where the incoming row had NaN, or nothing was left to sample.
    """

    logits: torch.Tensor
    greedy: Sequence[bool]
    invalid: torch.Tensor


class CapturedDraw(ABC):
    """What a sampler does inside captured steps: draws rows whose token depends on their own logits alone.

    Parameters of slots are read from tensors on the device, so that a captured draw need not be captured
    again when a slot changes hands. What the host has to look at or to remember for a row (its history, masks
    of a grammar) cannot be drawn like this; such rows are drawn by `process` and `draw` after the graph.

    Must hold:
        * `draw` gives each row the id and the flag that `process` and `draw` of the sampler give it, in any
          batch.
        * The host may be two steps ahead of the device: nothing of `prepare` changes what steps that were
          begun before will read. Copies made in the order of the current stream do not.

    Attributes:
        forms: in how many forms `draw` is captured, each for every size: kinds of rows that cost different
            launches.
    """

    forms: int = 1

    @abstractmethod
    def prepare(self, rows: SampleRows) -> int | None:
        """Have the parameters of these rows on the device, without a wait, and name the form that draws them.

        Called before each step that is captured, when the requests that begin in it were added, and perhaps
        before the tokens of the step before it are known and committed. May change nothing but what `draw`
        reads: a step can be repeated.

        Returns:
            A number below `forms`, or None if any row cannot be drawn like this.
        """

    @abstractmethod
    def draw(
        self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor, form: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One token per row.

        Waits for nothing, has no shape that depends on data, and reads what is its own from where it always
        will: it is captured once, and replayed for other rows.

        Args:
            logits: `[R, V]`, of any float dtype; must not be written to.
            slots: `[R]` int64; negative for a row that fills the step up and belongs to nobody. Nothing is
                read of what is drawn for it.
            positions: `[R]` int64, of the token being sampled.
            form: what `prepare` named for such rows, or any number below `forms` while there are none.

        Returns:
            ids `[R]` int64 in [0, V), and invalid `[R]` bool, as in `Distribution`.
        """


class Sampler(ABC):
    """Turns logits into tokens.

    Must hold:
        * A row's result depends only on its own slot, position and logits, never on its
          neighbours or their number: same seed, same tokens in any batch.
        * `process` and `draw` change no per-slot state; only `add`, `remove` and `commit` do. So
          a step can be repeated row by row when one row fails.
        * The random stream is counter-based on (seed, position, purpose).
    """

    @classmethod
    def reject(cls, need: SamplerNeed) -> str | None:
        """The reason this sampler cannot serve `need`, or None."""
        return None

    def __init__(self, init: SamplerInit) -> None:
        self.init = init

    def captured_draw(self) -> CapturedDraw | str:
        """What draws inside captured steps; or the reason why there is none, said in the start-up report.

        Called once, where steps are captured.
        """
        return "it knows no captured steps"

    @abstractmethod
    def add(
        self,
        slot: int,
        params: SamplingParams,
        seed: int,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
    ) -> None:
        """Seat a request. `output_ids` is not empty when it resumes after preemption.

        Args:
            slot: its slot. Whatever it held before is dropped: a `remove` may have failed, which must not
                cost the next request its seat.
            params: validated sampling parameters.
            seed: 64-bit seed of its random stream (drawn by the engine if the user gave none).
            prompt_ids: prompt token ids.
            output_ids: token ids already emitted.
        """

    @abstractmethod
    def remove(self, slot: int) -> None:
        """Free a slot and all its state."""

    @abstractmethod
    def process(
        self, logits: torch.Tensor, rows: SampleRows, draft_ids: torch.Tensor | None = None
    ) -> Distribution:
        """Apply every processor of each row's slot, in the documented order.

        Args:
            logits: `[R, V]`, compute dtype or fp32; must not be written to.
            rows: slot and position of each row.
            draft_ids: `[R]` int64 on the host, the draft token that precedes each row within this step (any
                for a row that none does); None without speculation.
        """

    @abstractmethod
    def draw(self, distribution: Distribution, rows: SampleRows) -> torch.Tensor:
        """Sampled ids `[R]` int64, on the device. Rows of `invalid` may hold any valid id."""

    @abstractmethod
    def commit(self, slots: Sequence[int], ids: Sequence[int], counts: Sequence[int]) -> None:
        """Record accepted tokens: `counts[i]` tokens of slot `slots[i]`, ids concatenated in order."""
