"""No n tokens in a row twice: a logits processor."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import LogitsProcessorSpec, hookimpl


@hookimpl
def quire_logits_processors() -> Iterable[LogitsProcessorSpec]:
    """One processor, for any device."""
    yield LogitsProcessorSpec(
        name="no-repeat-ngram",
        api=1,
        target="quire_logits_no_repeat_ngram.processor:NoRepeatNgram",
        arguments="quire_logits_no_repeat_ngram.arguments:Arguments",
        summary="no_repeat_ngram_size: no n tokens in a row twice",
    )
