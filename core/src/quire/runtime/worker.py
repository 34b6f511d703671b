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
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from quire.contracts import Batch, SampleRows
from quire.layers import Step
from quire.ops.upload import upload
from quire.plan import SlotResult, StepPlan, StepResult, TokenLogprobs, TokenMasks
from quire.runtime.batching import BatchBuilder, Rows
from quire.runtime.config import WorkerConfig
from quire.runtime.device import open_device
from quire.runtime.draft_head import PagedHead
from quire.runtime.drawing import Drawing, Drawn
from quire.runtime.graphs import DecodeGraphs, GraphReport, can_capture
from quire.runtime.guessing import Legal
from quire.runtime.in_flight import Forward, InFlight
from quire.runtime.kv_cache import KVCache
from quire.runtime.loading import load_model
from quire.runtime.logprobs import prompt_logprobs
from quire.runtime.pages import Activity, Filling
from quire.runtime.shortage import capture_too_large, out_of_memory, step_too_large
from quire.runtime.slot_state import SlotState
from quire.runtime.slots import UNKNOWN, SlotTable
from quire.runtime.spread import can_spread, spread

logger = logging.getLogger(__name__)
T = TypeVar("T")

_NOTHING = Drawn([], None)  # of a slot whose step ended inside its prompt


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
        self.model = loaded.network.model
        self.kernels = loaded.kernels
        self.backends = loaded.network.backends
        self.group_of_layer = loaded.network.group_of_layer
        self.sampler = loaded.sampler
        self.processors = loaded.processors
        self.speculator = loaded.speculator
        self.draft = loaded.draft
        self.head = self.draft if isinstance(self.draft, PagedHead) else None
        self.weight_bytes = loaded.network.weight_bytes
        if self.draft is not None:
            self.weight_bytes += self.draft.weight_bytes
        self.kv: KVCache | None = None
        self.filling: Filling | None = None  # of its pages, where they come one by one
        self.graphs: DecodeGraphs | None = None
        # Of slots, for steps that are submitted before the host knows what the last one drew.
        self._state: SlotState | None = None
        if self.device.asynchronous:
            self._state = SlotState(config.max_num_seqs, self.device.name)
        self._activity = Activity()
        self.slots, self._batches, self._drawing = self._empty_slots()
        self._in_flight: dict[int, InFlight] = {}

    def allocate(self, num_blocks: int) -> None:
        """Take KV memory for `num_blocks` blocks in every group, the null block included."""
        self.kv = KVCache(self.backends, self.group_of_layer, num_blocks, self.device.name)
        self.filling = self.kv.fill_in(self._activity)
        self.graphs = None
        self.slots, self._batches, self._drawing = self._empty_slots()
        if self.draft is not None:
            self.draft.allocate(num_blocks, self.slots)

    @property
    def bytes_per_block(self) -> int:
        """Bytes that one more KV block in every group costs, over all layers of all models."""
        own = KVCache.bytes_per_block(self.backends, self.group_of_layer)
        return own if self.draft is None else own + self.draft.bytes_per_block

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
            graphs = DecodeGraphs(
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
            of_draft = 0 if self.draft is None else self.draft.capture(self.device, self.kernels)
            self.graphs = graphs
            return replace(graphs.report, nbytes=graphs.report.nbytes + of_draft)
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
        self._apply(step)
        counts, drafts = dict(zip(plan.slots, plan.counts, strict=True)), dict(plan.drafts)
        slots = [slot for slot in plan.slots if slot not in step.failed]
        head = self.head if plan.keep_states else None

        def run(some: list[int]) -> Forward:
            numbers = [counts[slot] for slot in some]
            # In parts they run uncaptured: a graph's results lie where the next one's will. It has no states.
            if self.graphs and not head and len(some) == len(slots) and sum(numbers) <= self.graphs.most:
                size = self.graphs.size_for(sum(numbers))
                if max(numbers) == 1:
                    batch, rows = self._batches.build(some, numbers, size)
                    if rows.whole:  # all go on from their last token: no chunk of a prompt is among them
                        return self._replay(self.graphs, batch, rows)
                elif can_spread(self.slots, some, numbers, drafts):
                    groups, device = len(self.backends), self.device.name
                    batch, rows = spread(
                        self.slots, some, numbers, drafts, size, num_groups=groups, device=device
                    )
                    return self._replay_given(self.graphs, batch, rows)
            return self._forward(*self._batches.build(some, numbers, drafts=drafts), head)

        step.forwards = self._isolate(slots, run, step.failed)
        for forward in step.forwards:
            self.slots.advance(forward.rows.slots, forward.rows.computed)

    def sample(self, step_id: int, masks: TokenMasks | None = None) -> None:
        """Draw a token for every request that reached its last known one, among those its mask leaves."""
        step = self._in_flight[step_id]
        for slot, ids in step.appended:
            told = partial(self._drawing.record, ids=ids, counts=[len(ids)])
            self._isolate([slot], told, step.failed)
        for forward in step.forwards:
            step.sampled += self._isolate(
                forward.rows.sampled, partial(self._drawing.sample, forward, masks), step.failed
            )
        if self._state is not None:
            for sampled in step.sampled:
                slots, positions = sampled.slots, sampled.positions
                if sampled.rows is not None:  # no step is begun for the others before this one is collected
                    plain = sampled.rows.plain
                    slots, positions = [slots[i] for i in plain], [positions[i] for i in plain]
                self.slots.append(slots, positions, [UNKNOWN - slot for slot in slots])

    def collect(self, step_id: int, legal: Legal | None = None) -> StepResult:
        """The step's results, once they have reached the host; `legal` knows what may follow them."""
        step = self._in_flight.pop(step_id)
        plan, failed = step.plan, step.failed
        drawn: dict[int, Drawn] = {}
        for sampled in step.sampled:
            self._drawing.read(step, sampled, drawn)
        results = [
            SlotResult(slot, generation, *drawn.get(slot, _NOTHING))
            for slot, generation in zip(plan.slots, plan.generations, strict=True)
        ]
        if self.head is not None:
            self._keep_states(self.head, step, drawn)
        prompts = [forward.prompt_logprobs for forward in step.forwards if forward.prompt_logprobs]
        if prompts or plan.propose:
            of_slot = {result.slot: result for result in results}
            for entries in prompts:
                for slot, some in entries.items():
                    of_slot[slot].prompt_logprobs = some
            if self.draft is not None:
                said = {slot: one.token_ids for slot, one in drawn.items()}
                self.draft.guessing.tell(said, self.slots.masked, legal)
            for slot, ids in self._propose(plan, failed).items():
                of_slot[slot].draft_ids = ids
        if failed:
            results = [
                SlotResult(one.slot, one.generation, error=failed[one.slot]) if one.slot in failed else one
                for one in results
            ]
        self._activity.end()
        return StepResult(step_id, results)

    def _empty_slots(self) -> tuple[SlotTable, BatchBuilder, Drawing]:
        config = self.config
        table = SlotTable(config.max_num_seqs, config.max_model_len, config.block_size, config.windows)
        last_ids = None if self._state is None else self._state.last_ids
        batches = BatchBuilder(table, self.device.name, last_ids, num_groups=len(self.backends))
        return (
            table,
            batches,
            Drawing(
                self.sampler, self.processors, self.kernels, self.device, table, self._state, self._isolate
            ),
        )

    def _apply(self, step: InFlight) -> None:
        plan, failed = step.plan, step.failed
        assert self.kv is not None, "allocate() comes before the first step"
        for slot in plan.ended:
            if slot in self.slots.info:
                self.slots.leave(slot)
                self._guarded(partial(self.sampler.remove, slot), "sampler.remove")
                self._guarded(partial(self.processors.remove, slot), "logits_processor.remove")
                if self.speculator is not None:
                    self._guarded(partial(self.speculator.remove, slot), "speculator.remove")
        self._clear(plan)
        for start in plan.starts:
            self.slots.seat(start)
            if self.draft is not None:
                self.draft.seat(start.slot)
            try:
                prompt, output = start.token_ids[: start.num_prompt], start.token_ids[start.num_prompt :]
                self.sampler.add(start.slot, start.params, start.seed, prompt, output)
                self.processors.add(start.slot, start.params, prompt, output)
            except Exception as error:
                logger.exception("Request %s failed when it was seated", start.request_id)
                failed[start.slot] = _describe(error)
        if self._state is not None and plan.starts:
            self._state.seat(plan.starts)
        self.slots.extend(plan)
        for slot, position, ids in plan.appended:
            if new := self._append(slot, position, ids):
                step.appended.append((slot, new))
        for slot, ids in plan.drafts:
            self.slots.draft(slot, ids)
        own = len(self.backends)  # of a draft model's own group it copies what it cannot compute
        self.kv.copy(copy for copy in plan.copies if copy.group < own)
        if self.draft is not None and plan.copies:
            self.draft.copy(plan.copies)

    def _append(self, slot: int, position: int, ids: list[int]) -> list[int]:
        """Take in tokens of a slot, from `position` on; returns those that are not drawn here."""
        new = ids[int(self.slots.num_tokens[slot]) - position :]
        self.slots.extend_tokens(slot, position, ids)
        if self._state is not None and new:
            last = torch.tensor(ids[-1:])
            end = position + len(ids) - 1
            self._state.record([slot], [end], upload(self._state.last_ids.device, last)[0])
        return new

    def _propose(self, plan: StepPlan, failed: dict[int, str]) -> dict[int, list[int]]:
        """Drafts of those that were asked for some, by slot. For want of them nobody fails."""
        speculator, table = self.speculator, self.slots
        asked = {slot: k for slot, k in plan.propose if slot in table.info and slot not in failed}
        if speculator is None or not asked:
            return {}
        drafts: dict[int, list[int]] = {}

        def run(some: list[int]) -> None:
            counts = [asked[slot] for slot in some]
            found = speculator.propose(some, counts, [table.context(slot) for slot in some])
            drafts.update(zip(some, found, strict=True))

        self._isolate(list(asked), run, {})
        return drafts

    def _keep_states(self, head: PagedHead, step: InFlight, drawn: dict[int, Drawn]) -> None:
        """Let the head have what the step's rows left, now that it is known which drafts were right.

        For want of that nobody fails: it guesses worse.
        """
        kept = [forward.states for forward in step.forwards if forward.states is not None]
        if kept:
            rejected = {
                slot: len(ids) + 1 - len(drawn[slot].token_ids)
                for slot, ids in step.plan.drafts
                if slot in drawn
            }
            for states in kept:
                self._guarded(partial(head.keep, states, rejected), "head.keep")

    def _forward(self, batch: Batch, rows: Rows, head: PagedHead | None) -> Forward:
        assert self.kv is not None
        metadata = tuple(
            backend.plan(group) for backend, group in zip(self.backends, batch.groups, strict=True)
        )
        x = self.model.embed(batch.token_ids)  # [T, H]
        tap = None if head is None else head.tap()
        hidden = self.model.forward(x, batch.positions, Step(metadata, self.kv.layers, tap))
        states = None if head is None or tap is None else head.take(tap, rows)
        logits = self.model.logits(hidden if rows.whole else hidden[batch.logits_rows])  # [R, V]
        return Forward(rows, logits, self._prompt_logprobs(hidden, rows), states=states)

    def _replay(self, graphs: DecodeGraphs, batch: Batch, rows: Rows) -> Forward:
        """The same by captured graphs, of requests with a row each that predicts nothing of a prompt.

        They draw, too, if all rows can be drawn like this. That comes last: it moves slots on, and must not
        be repeated.
        """
        logits = graphs.run(batch)[: len(rows.slots)]  # [R, V]
        edited = self.processors.edits(rows.sampled)
        if edited or not self.slots.masked.isdisjoint(rows.sampled):  # or: what is legal is not known yet
            return Forward(rows, logits, {})
        return Forward(rows, logits, {}, graphs.draw(SampleRows(slots=rows.sampled, positions=rows.lengths)))

    def _replay_given(self, graphs: DecodeGraphs, batch: Batch, rows: Rows) -> Forward:
        """The same of rows that are given, several of some requests: these are drawn after the graph."""
        logits = graphs.run(batch, gives=True)[: sum(rows.counts)]  # [T, V]
        return Forward(rows, logits if rows.whole else logits[batch.logits_rows], {})  # [R, V]

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

    def _clear(self, plan: StepPlan) -> None:
        """Zero the blocks that change hands; those taken over with their content stay (see the contract)."""
        assert self.kv is not None
        size = self.config.block_size
        given = [(start.block_ids, start.num_computed // size) for start in plan.starts]
        given += [(blocks, 0) for _, blocks in plan.new_blocks]
        for groups, kept in given:
            for group, ids in enumerate(groups):
                if group < len(self.backends):
                    self.kv.clear(group, ids[kept:])
                if self.draft is not None and group == self.draft.group:
                    self.draft.given(ids[kept:])

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
            logger.exception("%s failed; no request that goes on depends on it", what)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
