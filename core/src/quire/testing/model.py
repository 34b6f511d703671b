"""The contract suite of model plugins: the same logits and greedy tokens as transformers.

Subclass `ModelSuite`, give it the fixtures at its top, and every test here runs over your model. A random
checkpoint is saved by transformers and loaded through Quire's own path, in fp32 with the reference kernels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from quire.contracts import AttentionBackend, Model
from quire.layers import describe
from quire.testing.runner import PagedRunner
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import load

PROMPT_LENGTHS = (1, 7, 18, 33)
DECODE_STEPS = 10
TOLERANCE = 2e-4
"""Of the largest logit: fp32 sums in another order, some layers deep."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A random checkpoint and the transformers model that it was saved from.

    Attributes:
        directory: what `save_pretrained` wrote, in several shards.
        config: its config.json.
        model: `transformers.PreTrainedModel`, fp32, eager attention.
        prompts: name -> token ids, of `PROMPT_LENGTHS`.
    """

    directory: Path
    config: Mapping[str, Any]
    model: Any
    prompts: Mapping[str, list[int]]

    @torch.inference_mode()
    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """`[T, V]`, the whole sequence at once and without a cache."""
        out: torch.Tensor = self.model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
        return out


def save_random_checkpoint(directory: Path, hf_config: Mapping[str, Any], seed: int = 0) -> Reference:
    """Make a random transformers model and save it as sharded safetensors.

    Every parameter is random, norms and biases as well, so that a forgotten one shows.

    Args:
        directory: where to.
        hf_config: config.json as a mapping, with `model_type`.
        seed: of weights and prompts.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(hf_config)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call] # has no annotations
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(generator=generator)
            if parameter.ndim > 1:
                parameter.mul_(1.5 / parameter.shape[-1] ** 0.5)
            elif not name.endswith("bias"):
                parameter.mul_(0.2).add_(1)
    model.save_pretrained(directory, max_shard_size="100KB")
    prompts = {
        f"prompt{length}": torch.randint(config.vocab_size, (length,), generator=generator).tolist()
        for length in PROMPT_LENGTHS
    }
    written = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return Reference(directory, written, model, prompts)


_references: dict[str, Reference] = {}


def assert_logits_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within `TOLERANCE` of the largest logit."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE * max(1.0, theirs.abs().max().item()))


class ModelSuite:
    """What every model plugin must do."""

    max_model_len = 128

    @pytest.fixture
    def model_class(self) -> type[Model]:
        """The plugin's model class."""
        raise NotImplementedError("Give the suite a fixture `model_class`.")

    @pytest.fixture
    def hf_config(self) -> Mapping[str, Any]:
        """A tiny config.json with `model_type`; parametrise the fixture to run over several.

        At least `max(PROMPT_LENGTHS) + DECODE_STEPS` positions.
        """
        raise NotImplementedError("Give the suite a fixture `hf_config`.")

    @pytest.fixture
    def attention_class(self) -> type[AttentionBackend]:
        """The attention backend to run on."""
        raise NotImplementedError("Give the suite a fixture `attention_class`.")

    @pytest.fixture
    def reference(self, hf_config: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Reference:
        """A random checkpoint of `hf_config`, made once for all tests of a run."""
        key = json.dumps(hf_config, sort_keys=True)
        if key not in _references:
            _references[key] = save_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), hf_config)
        return _references[key]

    @pytest.fixture
    def runner(
        self, model_class: type[Model], reference: Reference, attention_class: type[AttentionBackend]
    ) -> PagedRunner:
        """The plugin's model with the reference's weights."""
        return PagedRunner(
            model_class,
            reference.config,
            Checkpoint(reference.directory),
            attention_class=attention_class,
            max_model_len=self.max_model_len,
        )

    def test_one_request_alone(self, reference: Reference, runner: PagedRunner) -> None:
        for name, ids in reference.prompts.items():
            runner.add(name, ids)
            assert_logits_equal(runner.run({name: len(ids)})[name], reference.logits(ids))
            runner.free(name)

    def test_several_requests_in_one_batch(self, reference: Reference, runner: PagedRunner) -> None:
        for name, ids in reference.prompts.items():
            runner.add(name, ids)
        logits = runner.run({name: len(ids) for name, ids in reference.prompts.items()})
        for name, ids in reference.prompts.items():
            assert_logits_equal(logits[name], reference.logits(ids))

    def test_prefill_in_odd_pieces(self, reference: Reference, runner: PagedRunner) -> None:
        """Each request is cut differently, and they start in different steps."""
        pieces = {
            name: _pieces(len(ids), first) for first, (name, ids) in enumerate(reference.prompts.items(), 1)
        }
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in pieces}
        waiting = list(pieces)
        while any(pieces.values()):
            if waiting:
                name = waiting.pop(0)
                runner.add(name, reference.prompts[name])
            active = [name for name in pieces if pieces[name] and name not in waiting]
            for name, logits in runner.run({name: pieces[name].pop(0) for name in active}).items():
                seen[name].append(logits)
        for name, ids in reference.prompts.items():
            assert_logits_equal(torch.cat(seen[name]), reference.logits(ids))

    def test_greedy_decode(self, reference: Reference, runner: PagedRunner) -> None:
        """Token by token in one batch; one request is preempted half-way and computed anew."""
        ids = {name: list(prompt) for name, prompt in reference.prompts.items()}
        for name, prompt in ids.items():
            runner.add(name, prompt)
        compared = dict.fromkeys(ids, 0)
        for step in range(DECODE_STEPS):
            if step == DECODE_STEPS // 2:
                name = next(iter(ids))
                runner.free(name)
                runner.add(name, ids[name])
            logits = runner.run({name: runner.remaining(name) for name in ids})
            for name in list(ids):
                theirs = reference.logits(ids[name])[-1]
                assert_logits_equal(logits[name][-1], theirs)
                best, second = theirs.topk(2).values.tolist()
                if best - second > 2 * TOLERANCE * max(1.0, theirs.abs().max().item()):
                    assert int(logits[name][-1].argmax()) == int(theirs.argmax())
                    compared[name] += 1
                token = int(theirs.argmax())
                ids[name].append(token)
                runner.append(name, token)
        assert all(compared.values())

    def test_a_request_does_not_change_its_neighbours(
        self, reference: Reference, runner: PagedRunner
    ) -> None:
        (name, ids), *others = reference.prompts.items()
        runner.add(name, ids)
        alone = runner.run({name: len(ids)})[name]
        runner.free(name)
        for other, prompt in [*others, (name, ids)]:
            runner.add(other, prompt)
        together = runner.run({other: len(prompt) for other, prompt in [*others, (name, ids)]})[name]
        assert_logits_equal(together, alone)

    def test_description_matches_the_checkpoint(
        self, model_class: type[Model], reference: Reference, runner: PagedRunner
    ) -> None:
        """What is learnt without memory is what is then built."""
        facts = describe(model_class, reference.config, dtype="float32")
        assert facts.num_parameters == sum(p.numel() for p in reference.model.parameters())
        assert facts.weight_bytes == 4 * facts.num_parameters
        registered = runner.build.attention_layers
        assert sum(group.num_layers for group in facts.attention) == len(registered)
        assert [facts.attention[layer.group].cache for layer in registered] == [
            layer.cache for layer in registered
        ]

    def test_every_tensor_of_the_checkpoint_is_known(
        self, model_class: type[Model], reference: Reference, runner: PagedRunner
    ) -> None:
        """After `finish` nothing is left to load: targets were dropped or packed."""
        assert list(runner.model.weights()) == []
        with pytest.raises(Exception, match="unexpected tensor"):
            load([], Checkpoint(reference.directory), model_class.mapping)

    def test_random_weights_give_finite_logits(
        self, model_class: type[Model], reference: Reference, attention_class: type[AttentionBackend]
    ) -> None:
        runner = PagedRunner(model_class, reference.config, None, attention_class=attention_class)
        runner.add("a", [0, 1, 2, 3])
        assert runner.run({"a": 4})["a"].isfinite().all()


def _pieces(total: int, first: int) -> list[int]:
    """`total` cut into first, first + 2, first + 4 ... and what is left."""
    pieces = []
    while total:
        pieces.append(min(first, total))
        total -= pieces[-1]
        first += 2
    return pieces
