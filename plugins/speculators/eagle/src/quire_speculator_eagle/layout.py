"""How EAGLE-3 heads are published, in one form: which states they read, and which tensors they bring.

They come from SafeAILab's code, SpecForge, ModelOpt (tensors under `midlayer.`, settings in `eagle_config`)
and vLLM's speculators (`layers.0.`, settings in `transformer_layer_config` and beside it), perhaps with
`model.` in front.
Knows names, sizes and headers. Builds nothing, and never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.contracts import ServedModel, TensorHeader, WeightMapping
from quire.errors import CheckpointError, UnsupportedModelError

__all__ = ["ARCHITECTURE", "KEY", "MAPPING", "Layout", "resolve"]

ARCHITECTURE = "LlamaForCausalLMEagle3"
KEY = "eagle3"
"""Under which `resolve` leaves its findings in config.json."""

MAPPING = WeightMapping(
    stacked={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")},
    renames=(
        ("model.midlayer.", "midlayer."),
        ("model.layers.0.", "midlayer."),
        ("layers.0.", "midlayer."),
        ("model.", ""),
    ),
    # Which tokens of the served model are among the head's: `d2t` the other way round.
    ignored=("rotary_emb.inv_freq", "t2d"),
)

_ARCHITECTURES = frozenset(
    {ARCHITECTURE, "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel", "LlamaForCausalLM"}
)
"""Names under which such heads are found. The last is also that of whole models: tensors tell."""
_FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
_OLDER = frozenset({"EagleLlamaForCausalLM", "LlamaForCausalLMEagle", "EagleModel", "EagleSpeculator"})
_IDS = "eagle_aux_hidden_state_layer_ids"
_SERVED = f"Served are EAGLE-3 heads of one Llama layer (architecture {ARCHITECTURE})"
_UNKNOWN = ("parallel_drafting",)
"""Settings which, if they are on, ask for another computation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What config.json of a head does not say by itself.

    Attributes:
        depths: hidden states that it reads, as `quire.layers.Tap` counts them.
        target_hidden_size: their size.
        target_vocab_size: width of the served model's logits.
        draft_vocab_size: tokens that it can propose.
        has_embedding, has_head: whether it brings its own; else those of the served model serve.
        d2t: file of the tensor `d2t`, which names the tokens it can propose; None where they are the first.
        tied: its LM head is its own embedding.
        norm_before_residual: the residual is the normalised feature.
        norm_before_fc: all states beside one another are normalised before they are fused.
        fc_norm: each of them is, by itself (EAGLE-3.1, https://arxiv.org/abs/2605.09992).
        norm_output: what leaves the head is normalised before it is the next row's feature (the same paper).
        window: tokens that its attention sees back, itself among them; None for all.
    """

    depths: tuple[int, ...]
    target_hidden_size: int
    target_vocab_size: int
    draft_vocab_size: int
    has_embedding: bool
    has_head: bool
    d2t: str | None
    tied: bool
    norm_before_residual: bool
    norm_before_fc: bool
    fc_norm: bool
    norm_output: bool
    window: int | None

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Layout:
        """From a config.json that went through `resolve`."""
        found = dict(config[KEY])
        return cls(**{**found, "depths": tuple(found["depths"])})


def resolve(
    config: Mapping[str, Any], headers: Mapping[str, TensorHeader], served: ServedModel
) -> dict[str, Any]:
    """A head's config.json with its architecture's one name, its layer's settings at the top, and a `Layout`.

    Args:
        config: as published.
        headers: of its checkpoint; empty where weights are made up.
        served: the model that it is to propose to.

    Raises:
        UnsupportedModelError: it is no such head, or of a variant that is not implemented.
        CheckpointError: it does not fit the served model, or itself.
    """
    merged = {**(config.get("transformer_layer_config") or {}), **config}
    tensors = {MAPPING.rename(name): header for name, header in headers.items()}
    _check_kind(merged, tensors)
    for key in ("hidden_size", "vocab_size"):
        if not isinstance(merged.get(key), int) or merged[key] < 1:
            raise CheckpointError(f"The head's config.json must give {key}, not {merged.get(key)!r}.")
    hidden, target_hidden = merged["hidden_size"], served.hidden_size
    if merged.get("target_hidden_size") not in (None, target_hidden):
        raise CheckpointError(
            f"The head's config.json is for a model of the hidden size {merged['target_hidden_size']} "
            f"(target_hidden_size), and the served model's is {target_hidden}. Name a head made for it."
        )
    depths = _depths(merged, served)
    draft_vocab = merged.get("draft_vocab_size") or merged["vocab_size"]
    has_embedding = "embed_tokens.weight" in tensors
    # Trainers copy the setting from the served model, and write a head of its own all the same.
    own_head = "lm_head.weight" in tensors or not tensors
    tied = bool(merged.get("tie_word_embeddings")) and has_embedding and not own_head
    has_head = own_head or tied
    expected = {
        "fc.weight": ((hidden, len(depths) * target_hidden), f"{len(depths)} states of {target_hidden} each"),
        "lm_head.weight": ((draft_vocab, hidden), "draft_vocab_size by hidden_size"),
        "d2t": ((draft_vocab,), "draft_vocab_size"),
        "embed_tokens.weight": ((merged["vocab_size"], hidden), "vocab_size by hidden_size"),
    }
    for name, (shape, why) in expected.items():
        header = tensors.get(name)
        if header is not None and header.shape != shape:
            raise CheckpointError(
                f"{header.file}: tensor {name!r} of the head has the shape {list(header.shape)}, and needs "
                f"{list(shape)} ({why}) beside the served model. Name a head made for this model."
            )
    if not has_embedding and hidden != target_hidden:
        raise CheckpointError(
            "The head has no tensor 'embed_tokens.weight', and the served model's embedding is none for it: "
            f"its hidden size is {target_hidden}, the head's {hidden}."
        )
    if not has_head and (draft_vocab, hidden) != (served.vocab_size, target_hidden):
        raise CheckpointError(
            f"The head has no tensor 'lm_head.weight' of the shape {[draft_vocab, hidden]}, and the served "
            f"model's is no substitute: it is {[served.vocab_size, target_hidden]}."
        )
    if tensors and "d2t" not in tensors and draft_vocab != merged["vocab_size"]:
        raise CheckpointError(
            f"The head has no tensor 'd2t' of the shape {[draft_vocab]}, which says what the {draft_vocab} "
            f"tokens that it proposes (draft_vocab_size) are among {merged['vocab_size']}."
        )
    if draft_vocab > served.vocab_size:
        raise CheckpointError(
            f"The head proposes {draft_vocab} tokens (draft_vocab_size), and the served model has only "
            f"{served.vocab_size}. Name a head made for this model."
        )
    if tied and draft_vocab != merged["vocab_size"]:
        raise CheckpointError(
            f"The head's embedding, of {merged['vocab_size']} tokens, is to be its LM head "
            f"(tie_word_embeddings), which has {draft_vocab} (draft_vocab_size)."
        )
    flags = {key: bool(_setting(merged, key)) for key in _FLAGS}
    if flags["norm_before_fc"] and flags["fc_norm"]:
        raise CheckpointError(
            "The head's config.json sets both 'norm_before_fc' and 'fc_norm': its states are normalised "
            "either all together or each by itself."
        )
    layout = {
        "depths": list(depths),
        "target_hidden_size": target_hidden,
        "target_vocab_size": served.vocab_size,
        "draft_vocab_size": draft_vocab,
        "has_embedding": has_embedding,
        "has_head": has_head,
        "d2t": tensors["d2t"].file if "d2t" in tensors else None,
        "tied": tied,
        "window": _window(merged),
        **flags,
    }
    merged |= {"architectures": [ARCHITECTURE], KEY: layout}
    if not (merged.get("rope_scaling") or merged.get("rope_parameters")):
        # It was trained on excerpts, and says how long these were; plain rotations know no end.
        merged["max_position_embeddings"] = served.max_model_len
    return merged


def _check_kind(config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]) -> None:
    names = [str(name) for name in config.get("architectures") or ()]
    fc = tensors.get("fc.weight")
    joins_two = fc is not None and len(fc.shape) == 2 and fc.shape[1] == 2 * fc.shape[0]
    if not _OLDER.isdisjoint(names) or (joins_two and "midlayer.hidden_norm.weight" not in tensors):
        raise UnsupportedModelError(
            f"The draft model is a head of EAGLE-1 or EAGLE-2 ({', '.join(names) or 'no architecture'}), "
            f"which reads one hidden state through an 'fc.weight' of two inputs. {_SERVED}."
        )
    wanting = [name for name in ("fc.weight", "midlayer.hidden_norm.weight") if name not in tensors]
    if _ARCHITECTURES.isdisjoint(names) and names:
        raise UnsupportedModelError(f"The draft model is of the architecture {', '.join(names)}. {_SERVED}.")
    if (tensors and wanting) or (not tensors and ARCHITECTURE not in names):
        lacks = f" (no tensor {wanting[0]!r})" if tensors else ""
        raise UnsupportedModelError(
            f"The draft model, {', '.join(names) or 'of no architecture'}, is no EAGLE-3 head{lacks}. "
            f"{_SERVED}; a whole model proposes by the method 'draft'."
        )
    # Where config.json was copied from the served model it counts that one's; tensors do not.
    layers = max(map(_layer, tensors)) + 1 if tensors else config.get("num_hidden_layers", 1)
    if layers != 1:
        raise UnsupportedModelError(f"The head has {layers} layers. {_SERVED}.")
    for key in _UNKNOWN:
        if _setting(config, key):
            raise UnsupportedModelError(
                f"The head's config.json sets {key!r}, which is not implemented. {_SERVED}."
            )
    if not (config.get("eagle_config") or {}).get("use_aux_hidden_state", True):
        raise UnsupportedModelError(
            "The head reads the last hidden state alone (use_aux_hidden_state is false), which is not "
            f"implemented. {_SERVED}."
        )


def _setting(config: Mapping[str, Any], key: str) -> Any:
    """One that some write into `eagle_config`, others at the top."""
    return config.get(key) or (config.get("eagle_config") or {}).get(key)


def _layer(name: str) -> int:
    """The number of the layer that a tensor is of; 0 for those of none."""
    number = name.removeprefix("layers.").split(".")[0] if name.startswith("layers.") else "0"
    return int(number) if number.isdecimal() else 0


def _window(config: Mapping[str, Any]) -> int | None:
    if (config.get("layer_types") or [""])[0] != "sliding_attention":
        return None
    window = config.get("sliding_window")
    if not isinstance(window, int) or window < 1:
        raise CheckpointError(
            "The head's attention is a sliding one (layer_types), so config.json must give sliding_window as "
            f"a positive integer, not {window!r}."
        )
    return window


def _depths(config: Mapping[str, Any], served: ServedModel) -> tuple[int, ...]:
    """Which states it reads.

    At the top of config.json they are those that enter the layers named, as vLLM counts; in `eagle_config`
    those that leave them, as SGLang and the trainers count. Without either, all read those that enter three.
    """
    layers = served.num_depths - 1
    if layers < 1:
        raise UnsupportedModelError(
            "The served model's plugin tells no hidden states, which an EAGLE-3 head reads."
        )
    entering, leaving = config.get(_IDS), (config.get("eagle_config") or {}).get(_IDS)
    named = entering or leaving
    if not named:
        depths = [2, layers // 2, layers - 3]
    elif not isinstance(named, list | tuple) or not all(type(one) is int for one in named):
        raise CheckpointError(f"The head's config.json must give {_IDS} as a list of numbers, not {named!r}.")
    else:
        depths = [one if entering else one + 1 for one in named]
    if not all(0 <= depth <= layers for depth in depths):
        said = f"{named} ({_IDS})" if named else f"{depths}, for want of {_IDS}"
        raise CheckpointError(
            f"The head reads hidden states of the layers {said}, and the served model has {layers} layers. "
            "Name a head made for this model."
        )
    return tuple(depths)
