"""A head is asked as any draft model is; what it is made of is known before it is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import quire_speculator_eagle
from quire.contracts import (
    KINDS,
    DraftModel,
    HeadModel,
    ModelNeed,
    ServedModel,
    Speculator,
    SpeculatorInit,
    SpeculatorNeed,
    TensorHeader,
)
from quire.errors import CheckpointError, UnsupportedModelError
from quire.layers import describe
from quire.testing.speculator import MAX_LEN, SLOTS, VOCAB, SpeculatorSuite
from quire_speculator_eagle.head import Eagle3Head
from quire_speculator_eagle.layout import KEY, Layout, resolve
from quire_speculator_eagle.speculator import EagleSpeculator
from quire_speculator_eagle.vocabulary import DraftVocabulary

SERVED = ServedModel(hidden_size=8, num_depths=13, vocab_size=VOCAB, max_model_len=MAX_LEN)
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": VOCAB,
    "draft_vocab_size": 20,
    "max_position_embeddings": 32,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "fc.weight": (8, 24),
    "midlayer.hidden_norm.weight": (8,),
    "lm_head.weight": (20, 8),
    "d2t": (20,),
    "t2d": (VOCAB,),
}


def headers(**changed: tuple[int, ...] | None) -> dict[str, TensorHeader]:
    """Of a head as above, some tensors of another shape or missing; "." in names is written "__"."""
    shapes = SHAPES | {name.replace("__", "."): shape for name, shape in changed.items()}
    return {
        name: TensorHeader(dtype="F32", shape=shape, file="head.safetensors")
        for name, shape in shapes.items()
        if shape is not None
    }


class Counting(DraftModel):
    """Sure that the sum of a context follows it. Knows the contexts that `told` holds."""

    max_len = MAX_LEN

    def __init__(self) -> None:
        self.told: dict[int, list[int]] = {}
        self._rows: list[list[int]] = []

    def begin(self, slots: Sequence[int]) -> torch.Tensor:
        self._rows = [self.told[slot] for slot in slots]
        return self._logits()

    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        self._rows = [[*row, token] for row, token in zip(self._rows, ids.tolist(), strict=False)]
        return self._logits()

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1)

    def _logits(self) -> torch.Tensor:
        sums = torch.tensor([sum(row) % VOCAB for row in self._rows])
        return torch.nn.functional.one_hot(sums, VOCAB).float()


class Told(EagleSpeculator):
    """Passes contexts on to the model, as a worker's slots do."""

    def __init__(self) -> None:
        self.counting = Counting()
        need = SpeculatorNeed(
            device="cpu", dtype="float32", vocab_size=VOCAB, num_speculative_tokens=5, model="head"
        )
        super().__init__(
            SpeculatorInit(
                need=need,
                device="cpu",
                max_num_seqs=SLOTS,
                max_model_len=MAX_LEN,
                draft_model=self.counting,
            )
        )

    def propose(
        self, slots: Sequence[int], counts: Sequence[int], contexts: Sequence[NDArray[np.int32]]
    ) -> list[list[int]]:
        self.counting.told = dict(zip(slots, (one.tolist() for one in contexts), strict=True))
        return super().propose(slots, counts, contexts)


class TestEagle(SpeculatorSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Speculator]:
        return Told


def test_the_hooks_describe_it() -> None:
    (spec,) = quire_speculator_eagle.quire_speculators()
    assert (spec.name, spec.api, spec.takes_model) == ("eagle", KINDS["speculator"].api, True)
    assert spec.target == f"{EagleSpeculator.__module__}:{EagleSpeculator.__name__}"
    (model,) = quire_speculator_eagle.quire_models()
    assert model.target == f"{Eagle3Head.__module__}:{Eagle3Head.__name__}"


def test_the_hook_module_is_light() -> None:
    code = "import sys, quire_speculator_eagle; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("settings", "depths"),
    [
        ({}, (2, 6, 9)),
        ({"eagle_config": {}}, (2, 6, 9)),
        ({"eagle_aux_hidden_state_layer_ids": [0, 5, 12]}, (0, 5, 12)),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 5, 11]}}, (2, 6, 12)),
    ],
)
def test_it_reads_the_states_that_are_named(settings: dict[str, Any], depths: tuple[int, ...]) -> None:
    found = resolve(CONFIG | settings, headers(), SERVED)
    assert Layout.read(found).depths == depths
    assert found["max_position_embeddings"] == MAX_LEN


def test_settings_are_found_at_the_top_and_among_those_of_eagle() -> None:
    found = resolve(
        CONFIG | {"norm_before_fc": False, "eagle_config": {"norm_before_fc": True}}, headers(), SERVED
    )
    layout = Layout.read(found)
    assert (layout.norm_before_fc, layout.fc_norm, layout.norm_output) == (True, False, False)
    layout = Layout.read(resolve(CONFIG | {"fc_norm": True, "norm_output": True}, headers(), SERVED))
    assert (layout.norm_before_fc, layout.fc_norm, layout.norm_output) == (False, True, True)


def test_a_window_is_one_if_the_layer_slides() -> None:
    for kind, window in (("sliding_attention", 7), ("full_attention", None)):
        config = CONFIG | {"layer_types": [kind], "sliding_window": 7}
        assert Layout.read(resolve(config, headers(), SERVED)).window == window


def test_layers_are_counted_by_tensors() -> None:
    """config.json of one published head is the served model's, of 40 layers."""
    found = resolve(CONFIG | {"num_hidden_layers": 40}, headers(), SERVED)
    assert Layout.read(found).depths == (2, 6, 9)
    with pytest.raises(UnsupportedModelError, match="has 40 layers"):
        resolve(CONFIG | {"num_hidden_layers": 40}, {}, SERVED)


def test_a_head_of_its_own_goes_before_a_tied_one() -> None:
    """Trainers copy `tie_word_embeddings` from the served model."""
    tied = CONFIG | {"tie_word_embeddings": True}
    assert not Layout.read(resolve(tied, headers(embed_tokens__weight=(50, 8)), SERVED)).tied
    without = headers(embed_tokens__weight=(50, 8), lm_head__weight=None, d2t=None)
    layout = Layout.read(resolve(tied | {"draft_vocab_size": 50}, without, SERVED))
    assert (layout.tied, layout.has_head) == (True, True)


@pytest.mark.parametrize("prefix", ["midlayer.", "layers.0.", "model.midlayer.", "model.layers.0."])
@pytest.mark.parametrize(
    "architectures",
    [["LlamaForCausalLMEagle3"], ["LlamaForCausalLM"], ["Eagle3LlamaForCausalLM"], ["Eagle3Speculator"], []],
)
def test_every_published_name_is_one(prefix: str, architectures: list[str]) -> None:
    published = {name.replace("midlayer.", prefix): header for name, header in headers().items()}
    found = resolve(CONFIG | {"architectures": architectures}, published, SERVED)
    assert found["architectures"] == ["LlamaForCausalLMEagle3"]


def test_settings_of_speculators_are_found_where_they_are() -> None:
    inner = {key: CONFIG[key] for key in CONFIG if key not in ("architectures", "draft_vocab_size")}
    config = {
        "architectures": ["Eagle3Speculator"],
        "transformer_layer_config": inner,
        "draft_vocab_size": 20,
        "norm_before_residual": True,
        "eagle_aux_hidden_state_layer_ids": [2, 6, 9],
    }
    found = resolve(config, headers(), SERVED)
    assert found["intermediate_size"] == 16
    assert Layout.read(found).norm_before_residual


@pytest.mark.parametrize(
    ("settings", "changed", "error", "message"),
    [
        ({}, {"fc__weight": (8, 16), "midlayer__hidden_norm__weight": None}, "kind", "EAGLE-1 or EAGLE-2"),
        ({"architectures": ["EagleLlamaForCausalLM"]}, {}, "kind", "EAGLE-1 or EAGLE-2"),
        ({}, {"fc__weight": None}, "kind", "no EAGLE-3 head .no tensor 'fc.weight'"),
        ({"architectures": ["GemmaEagle3"]}, {}, "kind", "of the architecture GemmaEagle3"),
        ({}, {"layers__1__mlp__up_proj__weight": (16, 8)}, "kind", "has 2 layers"),
        ({"parallel_drafting": True}, {}, "kind", "sets 'parallel_drafting'"),
        ({"norm_before_fc": True, "fc_norm": True}, {}, "fit", "both 'norm_before_fc' and 'fc_norm'"),
        ({"layer_types": ["sliding_attention"]}, {}, "fit", "sliding_window as a positive integer, not None"),
        (
            {"tie_word_embeddings": True},
            {"lm_head__weight": None, "embed_tokens__weight": (50, 8)},
            "fit",
            "embedding, of 50 tokens, is to be its LM head .* has 20",
        ),
        ({"eagle_config": {"use_aux_hidden_state": False}}, {}, "kind", "use_aux_hidden_state"),
        ({}, {"fc__weight": (8, 30)}, "fit", r"head.safetensors: tensor 'fc.weight' .* needs \[8, 24\]"),
        ({}, {"lm_head__weight": (19, 8)}, "fit", r"'lm_head.weight' .* needs \[20, 8\]"),
        ({}, {"d2t": (21,)}, "fit", r"'d2t' .* needs \[20\]"),
        ({}, {"d2t": None}, "fit", r"no tensor 'd2t' of the shape \[20\]"),
        ({}, {"embed_tokens__weight": (9, 8)}, "fit", r"'embed_tokens.weight' .* needs \[50, 8\]"),
        ({}, {"lm_head__weight": None}, "fit", r"no tensor 'lm_head.weight' of the shape \[20, 8\]"),
        ({"target_hidden_size": 16}, {}, "fit", "hidden size 16 .* served model's is 8"),
        (
            {"hidden_size": 4},
            {"fc__weight": (4, 24), "lm_head__weight": (20, 4)},
            "fit",
            "no .*'embed_tokens",
        ),
        ({"eagle_aux_hidden_state_layer_ids": [2, 6, 13]}, {}, "fit", r"\[2, 6, 13\] .* has 12 layers"),
        ({"eagle_aux_hidden_state_layer_ids": "2"}, {}, "fit", "as a list of numbers"),
        ({"hidden_size": None}, {}, "fit", "must give hidden_size"),
        ({"draft_vocab_size": 60}, {"lm_head__weight": (60, 8), "d2t": (60,)}, "fit", "proposes 60 tokens"),
    ],
)
def test_what_does_not_fit_is_named(
    settings: dict[str, Any], changed: dict[str, tuple[int, ...] | None], error: str, message: str
) -> None:
    kind = UnsupportedModelError if error == "kind" else CheckpointError
    with pytest.raises(kind, match=message):
        resolve(CONFIG | settings, headers(**changed), SERVED)


def test_a_model_that_tells_no_states_has_no_head() -> None:
    silent = ServedModel(hidden_size=8, num_depths=0, vocab_size=VOCAB, max_model_len=MAX_LEN)
    with pytest.raises(UnsupportedModelError, match="tells no hidden states"):
        resolve(CONFIG, headers(), silent)


def test_a_head_alone_is_refused() -> None:
    need = ModelNeed(device="cpu", dtype="float32", architecture="LlamaForCausalLMEagle3", config=CONFIG)
    assert "only proposes to another model" in str(Eagle3Head.reject(need))


def test_it_is_described_without_memory() -> None:
    config: Mapping[str, Any] = resolve(CONFIG, headers(), SERVED)
    facts = describe(Eagle3Head, config, dtype="float32")
    assert (facts.feature_size, facts.num_depths) == (8, 0)
    assert [group.num_layers for group in facts.attention] == [1]
    sizes = 8 * 24 + 4 * 8 * 16 - 8 * 8 + 3 * 8 * 16 + 4 * 8 + 20 * 8 + 0  # fc, attention, mlp, norms, head
    assert facts.num_parameters == sizes
    assert config[KEY]["d2t"] == "head.safetensors"
    assert issubclass(Eagle3Head, torch.nn.Module)
    assert not isinstance(torch.nn.Module(), HeadModel)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [([0, 0, 48], "token 2 of the head to token 50"), ([0, -2, 0], "token 1 .* to token -1")],
)
def test_tokens_that_are_not_there_are_named(offsets: list[int], message: str) -> None:
    vocabulary = _vocabulary(offsets)
    with pytest.raises(CheckpointError, match=f"head.safetensors: tensor 'd2t' maps {message}"):
        vocabulary.finish()


def test_no_token_may_be_named_twice() -> None:
    with pytest.raises(CheckpointError, match="two tokens of the head to token 4"):
        _vocabulary([4, 3, 0]).finish()


def test_logits_go_to_the_tokens_that_they_are_of() -> None:
    vocabulary = _vocabulary([3, 3, 40])
    vocabulary.finish()
    out = vocabulary.spread(torch.tensor([[1.0, 2.0, 3.0]]))
    assert out[0, [3, 4, 42]].tolist() == [1.0, 2.0, 3.0]
    assert out.isfinite().sum() == 3


def _vocabulary(offsets: list[int]) -> DraftVocabulary:
    found = resolve(CONFIG | {"draft_vocab_size": 3}, headers(lm_head__weight=(3, 8), d2t=(3,)), SERVED)
    vocabulary = DraftVocabulary(Layout.read(found), "cpu")
    (weight,) = vocabulary.weights()
    weight.store(torch.tensor(offsets))
    return vocabulary
