"""A step between its joints: what is computed, drawn and on its way to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from quire.plan import StepPlan, TokenLogprobs
from quire.runtime.batching import Rows
from quire.runtime.device import Fetch
from quire.runtime.draft_head import KeptStates
from quire.runtime.verification import DraftRows


@dataclass(slots=True)
class Forward:
    """Results of a forward pass: logits of the rows that sample, and prompt log probabilities.

    Attributes:
        drawn: ids and invalid of these rows, `[R]` each, where the step has drawn them itself.
        states: what is kept for a head, if anything is.
    """

    rows: Rows
    logits: torch.Tensor  # [R, V]
    prompt_logprobs: dict[int, list[TokenLogprobs]]
    drawn: tuple[torch.Tensor, torch.Tensor] | None = None
    states: KeptStates | None = None


@dataclass(slots=True)
class Sampled:
    """A draw, on its way to the host.

    Attributes:
        slots, positions: the slots, and where the (first) token of each goes.
        fetched: ids and invalid, `[R]`; then the tensors of log probabilities, if there are any.
        logprobs: which of the R rows these are of, and how many of the top each asked for.
        rows: which rows are whose, where some have drafts; None where each slot has one.
    """

    slots: list[int]
    positions: list[int]
    fetched: Fetch
    logprobs: tuple[list[int], Sequence[int]] | None
    rows: DraftRows | None


@dataclass(slots=True)
class InFlight:
    """A step between its joints.

    Attributes:
        appended: slots and tokens of theirs that nobody draws; the sampler is yet to be told. They may follow
            what the step before has drawn, and it is told in order.
    """

    plan: StepPlan
    appended: list[tuple[int, list[int]]] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
