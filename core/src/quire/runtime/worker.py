"""One worker: it holds the model, the KV tensors and the slots, and runs the steps it is given.

A step has three joints: `submit` (forward pass), `sample`, `collect` (results reach the host). Whoever
calls them has entered `torch.inference_mode()`. On a device that works by itself the next step may be
submitted before this one is collected: its rows then take their tokens from where this one left them on the
device, in `sample`, or in `submit` already where a captured step draws. What comes too late, for a slot that
was given to another request meanwhile, is told apart by its generation.
One request's failure is that request's: whatever raises for a batch, for want of memory too, is run again in
halves, and only those requests that raise alone are failed. That is safe, because until all have run a
step changes nothing that running it again would not write in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from quire.contracts import Batch, SampleRows
from quire.layers import Step
from quire.ops.upload import upload
from quire.plan import SlotResult, StepPlan, StepResult, TokenLogprobs
from quire.runtime.batching import BatchBuilder, Rows
from quire.runtime.config import WorkerConfig
from quire.runtime.device import open_device
from quire.runtime.graphs import DecodeGraphs, GraphReport, can_capture
from quire.runtime.in_flight import Forward, InFlight, Sampled
from quire.runtime.kv_cache import KVCache
from quire.runtime.loading import load_model
from quire.runtime.logprobs import GatheredLogprobs, gather, prompt_logprobs
from quire.runtime.pages import Activity, Filling
from quire.runtime.shortage import capture_too_large, out_of_memory, step_too_large
from quire.runtime.slot_state import SlotState
from quire.runtime.slots import UNKNOWN, SlotTable

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Worker:
    """Loads what its configuration names, and runs steps."""

    def __init__(self, config: WorkerConfig) -> None:
        """Load the model and build the sampler. KV memory is taken by `allocate`.

        Raises:
            PluginError, ModelError: something the configuration names cannot be loaded.
        """
        self.config = config
        self.device = open_device(config.device)
        if config.device == "cpu":
            torch.set_num_threads(config.threads.count)
        loaded = load_model(config, self.device.name)
        self.model = loaded.model
        self.kernels = loaded.kernels
        self.backends = loaded.backends
        self.group_of_layer = loaded.group_of_layer
        self.sampler = loaded.sampler
        self.weight_bytes = loaded.weight_bytes
        self.kv: KVCache | None = None
        self.filling: Filling | None = None  # of its pages, where they come one by one
        self.graphs: DecodeGraphs | None = None
        # Of slots, for steps that are submitted before the host knows what the last one drew.
        self._state: SlotState | None = None
        if self.device.asynchronous:
            self._state = SlotState(config.max_num_seqs, self.device.name)
        self._activity = Activity()
        self.slots, self._batches = self._empty_slots()
        self._in_flight: dict[int, InFlight] = {}

    def allocate(self, num_blocks: int) -> None:
        """Take KV memory for `num_blocks` blocks in every group, the null block included."""
        self.kv = KVCache(self.backends, self.group_of_layer, num_blocks, self.device.name)
        self.filling = self.kv.fill_in(self._activity)
        self.graphs = None
        self.slots, self._batches = self._empty_slots()

    @property
    def can_capture(self) -> bool:
        """Whether decode steps are to be captured: device and backends can, and nobody forbade it."""
        return not self.config.enforce_eager and can_capture(self.device, self.backends)

    @torch.inference_mode()
    def capture(self) -> GraphReport:
        """Capture decode steps as graphs, over the KV memory that was taken; none if that takes too much."""
        assert self.kv is not None, "allocate() comes first"
        assert self._state is not None, "a device that captures is asynchronous"
        config = self.config
        try:
            self.graphs = DecodeGraphs(
                self.device,
                self.model,
                self.backends,
                self.kv.layers,
                self.kernels,
                self._state,
                self.sampler.captured_draw(),
                max_num_seqs=config.max_num_seqs,
                max_model_len=config.max_model_len,
                block_size=config.block_size,
            )
            return self.graphs.report
        except Exception as error:
            if not out_of_memory(error):
                raise
            problem = capture_too_large(error)
        # Not fewer: those that were captured hold what steps would then have to do without.
        self.device.empty_cache()
        return GraphReport((), 0, problem=problem)

    def submit(self, plan: StepPlan) -> None:
        """Apply the plan's diff and start the forward pass."""
        self._activity.begin()
        step = InFlight(plan)
        self._in_flight[plan.step_id] = step
        self._apply(plan, step.failed)
        counts = dict(zip(plan.slots, plan.counts, strict=True))
        slots = [slot for slot in plan.slots if slot not in step.failed]

        def run(some: list[int]) -> Forward:
            numbers = [counts[slot] for slot in some]
            # In parts they run uncaptured: a graph's results lie where the next one's will.
            if self.graphs is not None and len(some) == len(slots) and max(numbers) == 1:
                batch, rows = self._batches.build(some, numbers, self.graphs.size_for(len(some)))
                if rows.whole:  # all go on from their last token: no chunk of a prompt is among them
                    return self._replay(self.graphs, batch, rows)
            return self._forward(*self._batches.build(some, numbers))

        step.forwards = self._isolate(slots, run, step.failed)
        for forward in step.forwards:
            self.slots.advance(forward.rows.slots, forward.rows.computed)

    def sample(self, step_id: int) -> None:
        """Draw a token for every request that reached its last known one."""
        step = self._in_flight[step_id]
        for forward in step.forwards:
            step.sampled += self._isolate(forward.rows.sampled, partial(self._sample, forward), step.failed)
        if self._state is not None:
            for sampled in step.sampled:
                unknown = [UNKNOWN - slot for slot in sampled.slots]
                self.slots.append(sampled.slots, sampled.positions, unknown)

    def collect(self, step_id: int) -> StepResult:
        """The step's results, once they have reached the host."""
        step = self._in_flight.pop(step_id)
        plan, failed = step.plan, step.failed
        tokens: dict[int, int] = {}
        logprobs: dict[int, TokenLogprobs] = {}
        for sampled in step.sampled:
            self._read(step, sampled, tokens, logprobs)
        results = [
            SlotResult(slot, generation, [tokens[slot]] if slot in tokens else [])
            for slot, generation in zip(plan.slots, plan.generations, strict=True)
        ]
        prompts = [forward.prompt_logprobs for forward in step.forwards if forward.prompt_logprobs]
        if logprobs or prompts:
            of_slot = {result.slot: result for result in results}
            for entries in prompts:
                for slot, some in entries.items():
                    of_slot[slot].prompt_logprobs = some
            for slot, entry in logprobs.items():
                of_slot[slot].logprobs = [entry]
        if failed:
            results = [
                SlotResult(one.slot, one.generation, error=failed[one.slot]) if one.slot in failed else one
                for one in results
            ]
        self._activity.end()
        return StepResult(step_id, results)

    def _empty_slots(self) -> tuple[SlotTable, BatchBuilder]:
        config = self.config
        windows = [need.cache.window for need in config.attention]
        table = SlotTable(config.max_num_seqs, config.max_model_len, config.block_size, windows)
        last_ids = None if self._state is None else self._state.last_ids
        return table, BatchBuilder(table, self.device.name, last_ids)

    def _apply(self, plan: StepPlan, failed: dict[int, str]) -> None:
        assert self.kv is not None, "allocate() comes before the first step"
        for slot in plan.ended:
            if slot in self.slots.info:
                self.slots.leave(slot)
                self._guarded(lambda slot=slot: self.sampler.remove(slot), "sampler.remove")  # type: ignore[misc]
        self._clear(plan)
        for start in plan.starts:
            self.slots.seat(start)
            try:
                self.sampler.add(
                    start.slot,
                    start.params,
                    start.seed,
                    start.token_ids[: start.num_prompt],
                    start.token_ids[start.num_prompt :],
                )
            except Exception as error:
                logger.exception("Request %s failed when it was seated", start.request_id)
                failed[start.slot] = _describe(error)
        if self._state is not None and plan.starts:
            self._state.seat(plan.starts)
        self.slots.extend(plan)
        self.kv.copy(plan.copies)

    def _forward(self, batch: Batch, rows: Rows) -> Forward:
        assert self.kv is not None
        metadata = tuple(
            backend.plan(group) for backend, group in zip(self.backends, batch.groups, strict=True)
        )
        x = self.model.embed(batch.token_ids)  # [T, H]
        hidden = self.model.forward(x, batch.positions, Step(metadata=metadata, kv=self.kv.layers))
        logits = self.model.logits(hidden if rows.whole else hidden[batch.logits_rows])  # [R, V]
        return Forward(rows, logits, self._prompt_logprobs(hidden, rows))

    def _replay(self, graphs: DecodeGraphs, batch: Batch, rows: Rows) -> Forward:
        """The same by captured graphs, of requests with a row each that predicts nothing of a prompt.

        They draw, too, if all rows can be drawn like this. That comes last: it moves slots on, and must not
        be repeated.
        """
        logits = graphs.run(batch)[: len(rows.slots)]  # [R, V]
        return Forward(rows, logits, {}, graphs.draw(SampleRows(slots=rows.sampled, positions=rows.lengths)))

    def _prompt_logprobs(self, hidden: torch.Tensor, rows: Rows) -> dict[int, list[TokenLogprobs]]:
        """Entries of the prompt positions that this step's rows predict, by slot."""
        wanted = self.slots.with_prompt_logprobs
        if not wanted:
            return {}
        return {
            slot: prompt_logprobs(
                self.kernels,
                self.model,
                self.slots,
                slot,
                hidden[start : start + count],
                int(self.slots.computed[slot]),
            )
            for slot, start, count in zip(rows.slots, rows.starts, rows.counts, strict=True)
            if slot in wanted
        }

    def _sample(self, forward: Forward, slots: list[int]) -> Sampled:
        """Draw for some of the slots that sample, unless the step has; have the results fetched."""
        logits, drawn, of = forward.logits, forward.drawn, forward.rows
        positions = of.lengths
        if len(slots) != len(positions):
            places = [of.sampled.index(slot) for slot in slots]
            logits, positions = _rows(logits, places), [positions[place] for place in places]
            drawn = drawn and (_rows(drawn[0], places), _rows(drawn[1], places))
        ids, invalid = drawn or self._draw(logits, SampleRows(slots=slots, positions=positions))
        if drawn is None and self._state is not None:
            self._state.record(slots, positions, ids)
        results, logprobs = [ids, invalid], None
        if self.slots.with_logprobs:
            wanted = [i for i, slot in enumerate(slots) if slot in self.slots.with_logprobs]
            if wanted:
                counts = [self.slots.info[slots[i]].logprobs or 0 for i in wanted]
                gathered = gather(self.kernels, _rows(logits, wanted), _rows(ids, wanted), counts)
                results += [gathered.chosen, gathered.rank, gathered.top, gathered.top_ids]
                logprobs = (wanted, gathered.counts)
        return Sampled(slots, positions, self.device.fetch(results), logprobs)

    def _draw(self, logits: torch.Tensor, rows: SampleRows) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and invalid, `[R]` each, by the sampler itself."""
        distribution = self.sampler.process(logits, rows)
        return self.sampler.draw(distribution, rows), distribution.invalid

    def _read(
        self,
        step: InFlight,
        sampled: Sampled,
        tokens: dict[int, int],
        logprobs: dict[int, TokenLogprobs],
    ) -> None:
        """Sampled ids, and their log probabilities, by slot; recorded in the sampler and in the slots."""
        # Lists throughout: see `SlotTable.append`.
        first, second, *rest = sampled.fetched.wait()  # the step's one wait for the device
        ids: list[int] = first.tolist()
        invalid: list[bool] = second.tolist()
        slots, positions, drawn = sampled.slots, sampled.positions, ids
        if True in invalid:
            for place, wrong in enumerate(invalid):
                if wrong:
                    reason = "its logits held NaN, or its parameters left no token to sample"
                    step.failed[slots[place]] = reason
        kept = self._kept(step, sampled)
        if kept is not None:
            slots, positions, drawn = ([one[i] for i in kept] for one in (slots, positions, ids))
        self._commit(step, slots, drawn)
        self.slots.append(slots, positions, drawn)
        tokens.update(zip(sampled.slots, ids, strict=True))
        if sampled.logprobs is not None:
            wanted, counts = sampled.logprobs
            chosen, rank, top, top_ids = rest
            gathered = GatheredLogprobs(chosen, rank, top, top_ids, counts)
            entries = gathered.to_host([ids[i] for i in wanted])
            logprobs.update(zip([sampled.slots[i] for i in wanted], entries, strict=True))

    def _kept(self, step: InFlight, sampled: Sampled) -> list[int] | None:
        """Places of the rows whose tokens count; None for all of them."""
        slots, failed = sampled.slots, step.failed
        if self._state is not None:  # the next step has begun, and may have given a slot to somebody else
            generation_of = dict(zip(step.plan.slots, step.plan.generations, strict=True))
            seated = self.slots.generation
            kept = [
                place
                for place, slot in enumerate(slots)
                if slot not in failed and seated.get(slot) == generation_of[slot]
            ]
        elif failed:
            kept = [place for place, slot in enumerate(slots) if slot not in failed]
        else:
            return None
        return kept if len(kept) != len(slots) else None

    def _commit(self, step: InFlight, slots: list[int], ids: list[int]) -> None:
        """Record sampled ids in the sampler."""

        def run(some: list[int]) -> None:
            drawn = ids if len(some) == len(slots) else [ids[slots.index(slot)] for slot in some]
            self.sampler.commit(some, drawn, [1] * len(some))

        self._isolate(slots, run, step.failed)

    def _clear(self, plan: StepPlan) -> None:
        """Zero the blocks that change hands; those taken over with their content stay (see the contract)."""
        assert self.kv is not None
        size = self.config.block_size
        given = [(start.block_ids, start.num_computed // size) for start in plan.starts]
        given += [(blocks, 0) for _, blocks in plan.new_blocks]
        for groups, kept in given:
            for group, ids in enumerate(groups):
                self.kv.clear(group, ids[kept:])

    def _isolate(self, slots: list[int], run: Callable[[list[int]], T], failed: dict[int, str]) -> list[T]:
        """Run for all slots at once; should that raise, in halves, and fail those that raise alone."""
        if not slots:
            return []
        try:
            return [run(slots)]
        except Exception as error:
            memory = out_of_memory(error)
            if len(slots) == 1:
                failed[slots[0]] = self._failure(slots[0], error)
            else:
                logger.warning("A step of %d requests failed (%s); running it in halves", len(slots), error)
        if memory:  # what failed is free only here: as long as there is the exception, its traceback holds it
            self.device.empty_cache()
        if len(slots) == 1:
            return []
        half = len(slots) // 2
        return [*self._isolate(slots[:half], run, failed), *self._isolate(slots[half:], run, failed)]

    def _failure(self, slot: int, error: Exception) -> str:
        logger.error("Request %s failed", self.slots.info[slot].request_id, exc_info=error)
        if out_of_memory(error):
            return step_too_large(error, self.config.max_num_batched_tokens)
        return _describe(error)

    def _guarded(self, call: Callable[[], None], what: str) -> None:
        try:
            call()
        except Exception:
            logger.exception("%s failed; the request it belongs to has ended already", what)


def _rows(tensor: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Some rows of a tensor of the device; a list as index would wait for it."""
    return tensor[upload(tensor.device, torch.tensor(places))[0]]


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
