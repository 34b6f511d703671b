"""Proposals by an EAGLE-3 head (Li, Wei, Zhang and Zhang 2025, https://arxiv.org/abs/2503.01840).

A head is a draft model to whoever asks it for tokens: one after another, drawn as the token itself will be.
What makes it another thing is where its rows come from, and that is the worker's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from quire.contracts import ServedModel, TensorHeader
from quire_speculator_draft.speculator import DraftSpeculator
from quire_speculator_eagle.layout import resolve

__all__ = ["EagleSpeculator"]


class EagleSpeculator(DraftSpeculator):
    """Lets a head go ahead."""

    torch_files: ClassVar[bool] = True  # as the first heads are published

    @classmethod
    def model_config(
        cls, config: Mapping[str, Any], headers: Mapping[str, TensorHeader], served: ServedModel
    ) -> Mapping[str, Any]:
        """See the contract."""
        return resolve(config, headers, served)
