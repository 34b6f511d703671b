"""Plans the model that proposes tokens to the served one: its files, its plugins, its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quire.config import EngineConfig
from quire.contracts import (
    AttentionNeed,
    ModelFiles,
    ModelRequest,
    ModelSource,
    ServedModel,
    Speculator,
)
from quire.engine.planning.network import choose_attention, choose_network, quantization_need
from quire.errors import CheckpointError, ConfigError, ModelNotFoundError
from quire.layers import ModelFacts
from quire.plugin_plan import PlanBuilder
from quire.runtime.config import DraftConfig
from quire.text.tokenizer import load_tokenizer
from quire.weights.checkpoint import Checkpoint
from quire.weights.config_files import derive_max_model_len, load_model_config
from quire.weights.sources.resolve import resolve_model

__all__ = ["DraftPlan", "Served", "plan_draft"]

_PREFIX = "draft/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a draft model has to fit.

    Attributes:
        tokenizer_files: of the served model's tokenizer.
        attention: its KV groups.
        model: its sizes.
        device, dtype: it runs on and in.
    """

    tokenizer_files: ModelFiles
    attention: Sequence[AttentionNeed]
    model: ServedModel
    device: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPlan:
    """A draft model, decided.

    Attributes:
        name: as the user named it.
        files: its files.
        facts: its KV groups and size.
        worker_config: what a worker needs to load it.
    """

    name: str
    files: ModelFiles
    facts: ModelFacts
    worker_config: DraftConfig


def plan_draft(
    builder: PlanBuilder,
    config: EngineConfig,
    sources: Sequence[ModelSource],
    served: Served,
    speculator: type[Speculator],
    *,
    show_progress: bool,
    headers_in: Path | None,
) -> DraftPlan | None:
    """Decide everything about the draft model that the settings name; None if they name none.

    Args:
        builder: takes the choices, under roles that begin with "draft/".
        config: the user's settings.
        sources: where models come from.
        served: the model that it proposes to.
        speculator: who proposes by it.
        show_progress, headers_in: see `make_plan`.

    Raises:
        ConfigError: its tokens are not those of the served model.
        PluginError, ModelError: it cannot be found, or nothing serves it.
    """
    asked = config.speculation
    if asked is None or asked.model is None:
        return None
    request = ModelRequest(
        model=asked.model,
        tokenizer_only=config.load_format == "dummy",
        show_progress=show_progress,
        torch_files=speculator.torch_files and config.load_format != "safetensors",
    )
    if headers_in is not None:
        headers_in = headers_in / "draft"
        headers_in.mkdir()
    try:
        files = resolve_model(sources, request, headers_in=headers_in)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"The draft model of speculative_config: {error}") from error
    headers = {} if config.load_format == "dummy" else Checkpoint(files.directory).headers()
    model_config = speculator.model_config(load_model_config(files), headers, served.model)
    try:
        longest = min(derive_max_model_len(model_config), served.model.max_model_len)
    except CheckpointError:  # it gives no length: then it follows as far as the other goes
        longest = served.model.max_model_len
    _check_vocabulary(asked.model, files, int(model_config["vocab_size"]), served)
    device, dtype = served.device, served.dtype
    facts, _ = choose_network(
        builder, config, files, model_config, device, dtype, quantization=None, prefix=_PREFIX
    )
    needs = choose_attention(builder, config, facts, device, dtype, prefix=_PREFIX)
    whole = [group for group, need in enumerate(served.attention) if need.cache.window is None]
    return DraftPlan(
        name=asked.model,
        files=files,
        facts=facts,
        worker_config=DraftConfig(
            directory=files.directory,
            model_config=model_config,
            attention=needs,
            quantization=quantization_need(config, device, dtype, model_config),
            max_model_len=longest,
            vocab_size=served.model.vocab_size,
            num_speculative_tokens=asked.num_speculative_tokens,
            group=whole[0] if whole else len(served.attention),
            feature_size=facts.feature_size,
        ),
    )


def _check_vocabulary(name: str, files: ModelFiles, vocab_size: int, served: Served) -> None:
    """Each id has to name the same token for both. How far logits are padded past them does not matter."""
    theirs, ours = (one.directory / "tokenizer.json" for one in (files, served.tokenizer_files))
    if theirs.is_file() and ours.is_file() and theirs.read_bytes() == ours.read_bytes():
        return
    try:
        draft, target = (load_tokenizer(one).backend.get_vocab() for one in (files, served.tokenizer_files))
    except CheckpointError as error:
        if vocab_size == served.model.vocab_size:  # there is nothing else to compare
            return
        raise ConfigError(
            f"The draft model {name!r} has a vocabulary of {vocab_size}, the served model one of "
            f"{served.model.vocab_size}, and their tokens cannot be compared ({error}). Name a draft model "
            "with the served model's tokenizer."
        ) from error
    other = min((token for token, id_ in target.items() if draft.get(token) != id_), default=None)
    if other is None and len(draft) == len(target):
        return
    if other is None:
        other = min(draft.keys() - target.keys())
    raise ConfigError(
        f"The draft model {name!r} has another vocabulary than the served model: {other!r} is "
        f"{_place(draft, other)} in its tokenizer, and {_place(target, other)} in the served model's. Name a "
        "draft model with the same tokenizer."
    )


def _place(vocabulary: dict[str, int], token: str) -> str:
    return f"token {vocabulary[token]}" if token in vocabulary else "no token"
