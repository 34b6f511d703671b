"""What the settings about speculative decoding come to: who proposes, how far ahead, and with which options.

Knows the ways in which vLLM's users write it. Must never know which speculators are installed, nor their
options but for the two that once had settings of their own.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Speculation", "mapping_from_text", "read_speculation"]

_OTHER_NAMES = {"draft_model": "draft", "eagle3": "eagle", "[ngram]": "ngram"}
_LOOKUP = ("prompt_lookup_max", "prompt_lookup_min")
_BY_ITSELF = "how far ahead is proposed follows acceptance and load by itself; leave it out"
_EXACT = "drafts never change a token's distribution; leave it out"
_ELSEWHERE = {
    "acceptance_method": _EXACT,
    "disable_by_batch_size": _BY_ITSELF,
    "disable_logprobs": "log probabilities are those of the tokens that count; leave it out",
    "draft_tensor_parallel_size": "Quire runs on one device; leave it out, or give 1",
    "posterior_alpha": _EXACT,
    "posterior_threshold": _EXACT,
    "speculative_token_tree": "drafts are chains; leave it out",
}
"""Keys of vLLM's that Quire has not, and why."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """Speculative decoding as it was asked for.

    Attributes:
        method: the speculator, by its plugin's name (`name` or `distribution:name`).
        num_speculative_tokens: most tokens proposed ahead of a sequence.
        model: draft model, None for a method that takes none.
        options: what else was given: options of the speculator.
    """

    method: str
    num_speculative_tokens: int
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """In words, for reports."""
        by = f"{self.method} ({self.model})" if self.model is not None else self.method
        return f"{by}, up to {self.num_speculative_tokens} tokens ahead of a request, as far as that pays"


def mapping_from_text(value: object) -> object:
    """A mapping from its JSON text; anything else is returned as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be a mapping or a JSON object, got {value!r} ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"must be a mapping or a JSON object, got {value!r}")  # noqa: TRY004 - as above
    return found


def read_speculation(
    config: Mapping[str, Any] | None,
    model: str | None,
    num_speculative_tokens: int | None,
    lookup_max: int | None,
    lookup_min: int | None,
) -> Speculation | None:
    """What is asked for, by `speculative_config` or by the older settings; None if nothing is.

    Args:
        config: `speculative_config`.
        model, num_speculative_tokens, lookup_max, lookup_min: the older settings.

    Raises:
        ValueError: they contradict each other, or say too little; the message names the setting.
    """
    older = {
        "speculative_model": model,
        "num_speculative_tokens": num_speculative_tokens,
        "ngram_prompt_lookup_max": lookup_max,
        "ngram_prompt_lookup_min": lookup_min,
    }
    given = [name for name, value in older.items() if value is not None]
    if config is not None:
        if given:
            raise ValueError(
                f"{given[0]} and speculative_config say the same thing in two ways. "
                f"Write {_within(given[0])!r} into speculative_config alone."
            )
        return _from_mapping(config)
    if not given:
        return None
    lookups = {key: value for key, value in zip(_LOOKUP, (lookup_max, lookup_min), strict=True) if value}
    if model is None and not lookups:
        raise ValueError(
            "num_speculative_tokens says how far ahead to propose, but nothing says who does. Give "
            'speculative_config={"method": "ngram", "num_speculative_tokens": '
            f"{num_speculative_tokens}}}, or speculative_model."
        )
    merged: dict[str, Any] = {**lookups}
    merged["model" if model is not None else "method"] = model or "ngram"
    if num_speculative_tokens is not None:
        merged["num_speculative_tokens"] = num_speculative_tokens
    return _from_mapping(merged, "speculative_model")


def _within(name: str) -> str:
    """The key of `speculative_config` that an older setting is."""
    return name.removeprefix("speculative_").removeprefix("ngram_")


def _from_mapping(config: Mapping[str, Any], where: str = "speculative_config") -> Speculation:
    rest = dict(config)
    method, model = (_name(rest.pop(key, None), key) for key in ("method", "model"))
    ahead = rest.pop("num_speculative_tokens", None)
    if method is None and model in ("ngram", "[ngram]"):
        method, model = "ngram", None
    if method == "ngram" and model in ("ngram", "[ngram]"):  # as some scripts have it
        model = None
    if method is None and model is None:
        near = difflib.get_close_matches(" ".join(rest), ("method", "model"), n=1)
        hint = f" (Unknown is {next(iter(rest))!r}: did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"{where} names neither a method nor a draft model. "
            f"Give 'method', such as \"ngram\", or 'model'.{hint}"
        )
    named, method = method, _OTHER_NAMES.get(method, method) if method else "draft"
    if method == "draft" and model is None:
        raise ValueError(f"{where}: the method {named!r} needs a draft model. Give 'model', its name.")
    if ahead is None:
        raise ValueError(
            f"{where} does not say how many tokens to propose. Give num_speculative_tokens, such as 5."
        )
    if isinstance(ahead, str) and ahead.strip().isdigit():
        ahead = int(ahead)
    if not isinstance(ahead, int) or isinstance(ahead, bool) or ahead < 1:
        raise ValueError(f"{where}: num_speculative_tokens must be a number of at least 1, got {ahead!r}")
    if rest.get("draft_tensor_parallel_size") == 1:  # which is how it is
        del rest["draft_tensor_parallel_size"]
    for key in rest:
        if key in _ELSEWHERE:
            raise ValueError(f"{where}: Quire has no {key!r}: {_ELSEWHERE[key]}")
    return Speculation(method, ahead, model, rest)


def _name(value: object, key: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"speculative_config: {key} must be a name, got {value!r}")
