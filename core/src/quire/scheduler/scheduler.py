"""The scheduler: requests come in, plans go out, results come back.

Knows numbers only: token ids, counts, blocks, slots. Must never know about devices, text, sockets or
wall time but through its injected clock, so it runs as it is under a virtual clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from quire.errors import EngineError, InvalidRequestError
from quire.kv import KVManager
from quire.outputs import FinishReason
from quire.plan import SlotResult, StepPlan, StepResult, TokenLogprobs
from quire.request import EngineRequest, StepOutput
from quire.scheduler.config import SchedulerConfig
from quire.scheduler.drafting import Drafting
from quire.scheduler.forking import Forking, begin_beams
from quire.scheduler.limits import check_admission, max_length
from quire.scheduler.planner import Planner
from quire.scheduler.policy import make_policy
from quire.scheduler.roster import Roster
from quire.scheduler.state import RequestState, Sequence, num_completions
from quire.scheduler.stats import SchedulerStats
from quire.scheduler.step import Ride, StepDraft, explain, surprises, tell_time
from quire.scheduler.stopping import append_tokens

__all__ = ["Scheduler"]


class Scheduler:
    """Plans steps and takes in their results.

    `schedule` and `update` are called in turn, or, under overlap, `schedule` once more before the
    `update` of the plan before. Not thread-safe.
    """

    def __init__(self, config: SchedulerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Build an idle scheduler with an empty cache.

        Args:
            config: bounds and features.
            clock: seconds; stamps the first start of each completion, and decides nothing.
        """
        self.config = config
        self._kv = KVManager(
            config.block_size,
            config.num_blocks,
            config.enable_prefix_caching,
            windows=config.windows or None,
        )
        self._roster = Roster(self._kv, config.max_num_seqs)
        self._policy = make_policy(config.policy)
        self._forking = Forking(self._kv, self._roster, self._policy)
        self._drafting = Drafting(config.num_speculative_tokens)
        self._planner = Planner(config, self._kv, self._roster, self._policy, clock)
        self._requests: dict[str, RequestState] = {}
        self._under_way: dict[int, list[Ride]] = {}
        self._skipping: dict[int, int] = {}  # sequences that wait for the step before, by step under way
        self._num_steps = 0
        self._num_requests = 0
        self._num_forced = 0

    # --- requests come and go

    def add(self, request: EngineRequest) -> None:
        """Take in a request; it waits for its turn.

        Raises:
            InvalidRequestError: its id is live, or it can never run (see `check_admission`).
        """
        if request.request_id in self._requests:
            raise InvalidRequestError(f"Request id {request.request_id!r} is in use by a live request.")
        check_admission(request, self.config)
        params = request.params
        state = RequestState(
            request=request,
            number=self._num_requests,
            max_len=max_length(request, self.config),
            eos_ids=frozenset() if params.ignore_eos else frozenset(request.eos_token_ids),
            stop_ids=frozenset(params.stop_token_ids or ()),
            unforked=list(range(num_completions(request))),
        )
        if params.use_beam_search:
            begin_beams(state)
        self._num_requests += 1
        self._requests[request.request_id] = state
        self._forking.start(state)

    def abort(self, request_id: str, index: int | None = None) -> list[StepOutput]:
        """End a request at once, whatever it is doing; results under way for it are discarded.

        Args:
            request_id: which request.
            index: end this completion alone (a stop string was found in it); None for all. Those of a beam
                search do not live before its end, so that none can be ended alone.

        Returns:
            The last output of each completion ended, with finish reason "abort". Nothing for what is not
            live, for it may have finished while the caller made up its mind.
        """
        state = self._requests.get(request_id)
        if state is None:
            return []
        if index is None:
            return self._end_request(state, "abort")
        if state.beams is not None:
            return []
        if index in state.unforked:
            state.unforked.remove(index)
            return [StepOutput(request_id=request_id, index=index, finish_reason="abort")]
        ended = [sequence for sequence in state.sequences if sequence.index == index]
        for sequence in ended:
            self._end(sequence)
        return [self._output(sequence, "abort") for sequence in ended]

    def has_unfinished(self) -> bool:
        """True while any request is live."""
        return bool(self._requests)

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes; running requests are not affected."""
        self._kv.reset_prefix_cache()

    def stats(self) -> SchedulerStats:
        """Counts for metrics."""
        return SchedulerStats(
            num_running=len(self._roster.running),
            num_waiting=len(self._roster.waiting),
            num_preemptions=self._roster.num_preemptions,
            kv=self._kv.usage(),
            prefix_queries=self._kv.prefix_queries,
            prefix_hits=self._kv.prefix_hits,
            drafts=self._drafting.stats(),
            num_forced_tokens=self._num_forced,
        )

    # --- planning

    def schedule(self) -> StepPlan:
        """Plan the next step. It may be empty but for `ended` slots, or altogether.

        A plan without `slots` needs no `update`.

        Raises:
            EngineError: requests are live, but none can ever be scheduled.
        """
        step = StepDraft(self._num_steps, self.config.max_num_batched_tokens)
        self._planner.fill(step)
        self._check_progress(step)
        full = bool(self._roster.waiting)
        plan, rides = step.seal(self._roster.take_ended(), self._drafting, full=full)
        self._num_steps += 1
        if rides:
            self._under_way[plan.step_id] = rides
            if self._drafting.enabled and len(self._under_way) > 1:
                self._skipping[plan.step_id] = sum(
                    sequence.speculating and sequence not in step.counts for sequence in self._roster.running
                )
        return plan

    def _check_progress(self, step: StepDraft) -> None:
        """Raise rather than spin: live requests, an empty step, and no result under way to change it."""
        if step.counts or not self._requests or self._under_way:
            return
        roster = self._roster
        first = (roster.running or roster.waiting)[0]
        usage = "; ".join(f"{u.used} used, {u.cached} cached, {u.free} free" for u in self._kv.usage())
        raise EngineError(
            f"No progress is possible: {len(roster.waiting)} waiting, {len(roster.running)} running, and "
            f"nothing can be scheduled. First is request {first.state.request.request_id!r} with "
            f"{len(first.token_ids)} tokens, {first.num_computed} of them computed. KV blocks of "
            f"{self.config.block_size} tokens per group: {usage}. Blocks held by no request are a leak, "
            "or a transfer that never ended."
        )

    def append(
        self, request_id: str, index: int, token_ids: list[int], *, certain: bool = False
    ) -> StepOutput | None:
        """Let a completion go on with tokens that nobody need sample: they cost no step of their own.

        The stopping rules hold for them, as for sampled ones. Where log probabilities are asked for, theirs
        are 0, for they were certain.

        Args:
            request_id, index: which completion.
            token_ids: at least one.
            certain: no others are legal, so that what a step under way samples for it is the first of them.

        Returns:
            The news of it; None if nothing was appended, for the completion is not live, or a step under way
            samples for it what is not `certain` or has drafts, or it is a beam search, whose beams are
            nobody's to continue.
        """
        sequence = self._find(request_id, index)
        if sequence is None or sequence.beam is not None:
            return None
        if drawn := sequence.num_pending:
            if not certain or sequence.speculating or len(token_ids) < drawn:
                return None
            sequence.num_pending, sequence.foreseen = 0, sequence.foreseen + drawn
        taken, stop = append_tokens(sequence, token_ids)
        self._num_forced += max(taken - drawn, 0)
        sequence.drafts = []
        if sequence.slot >= 0:
            sequence.forced += taken
        if stop is not None:
            self._end(sequence)
        output = self._output(sequence, stop.reason if stop else None)
        output.token_ids = token_ids[:taken]
        if sequence.state.request.params.logprobs is not None:
            output.logprobs = [TokenLogprobs([token_id], [0.0], 1) for token_id in output.token_ids]
        output.stop_reason = stop.token_id if stop else None
        return output

    def pause(self, request_id: str, index: int, after: int | None) -> None:
        """Have a completion wait, at so many tokens of output, to be told how it goes on: by `append`, or by
        another `pause`; None for never. No more are sampled for it before, whatever is under way.
        """
        sequence = self._find(request_id, index)
        if sequence is not None:
            sequence.pause = None if after is None else sequence.num_prompt + after

    def _find(self, request_id: str, index: int) -> Sequence | None:
        """A live sequence."""
        state = self._requests.get(request_id)
        return next((one for one in state.sequences if one.index == index), None) if state else None

    # --- results

    def update(self, plan: StepPlan, result: StepResult, seconds: float | None = None) -> list[StepOutput]:
        """Take in the result of a plan; results of slots that ended or were preempted since are discarded.

        An error of one completion ends its whole request, each unfinished completion with "error": the
        request is what fails for its caller. Other requests are not affected.

        Args:
            plan: it must be under way.
            result: its result.
            seconds: what the step took, for those who decide by it; None if that is not measured.

        Returns:
            News, at most of every completion in the plan; what a stop cut off is not in it.

        Raises:
            EngineError: `result` is not this plan's, or lacks one of its slots.
        """
        rides = self._under_way.pop(plan.step_id, [])
        skipping = self._skipping.pop(plan.step_id, 0)
        if len(rides) != len(plan.slots) or result.step_id != plan.step_id:
            raise EngineError(
                f"Result of step {result.step_id} does not answer step {plan.step_id} under way."
            )
        self._kv.release(plan.step_id)
        answers = result.slots
        drafting = self._drafting
        if seconds is not None and drafting.enabled and (plan.drafts or plan.propose or not drafting.resting):
            tell_time(drafting, plan, rides, answers, skipping, seconds)
        outputs: list[StepOutput] = []
        for place, ride in enumerate(rides):
            sequence, slot, generation, _, num_drafts, samples = ride
            if sequence.slot != slot or sequence.generation != generation:
                continue
            answer = answers[place] if place < len(answers) else None
            if answer is None or answer.slot != slot or answer.generation != generation:
                raise EngineError(f"Result of step {plan.step_id} lacks slot {slot} where its plan has it.")
            most = num_drafts + 1 if samples else 0
            ids = answer.token_ids
            wrong = answer.error is not None or not samples <= len(ids) <= most
            if wrong or (sequence.foreseen and surprises(ride, ids)):
                outputs += self._end_request(sequence.state, "error", explain(ride, answer))
            elif (output := self._accept(ride, answer)) is not None:
                outputs.append(output)
            if samples and sequence.beam is not None:
                outputs += self._advance(sequence.state)
        return outputs

    def _advance(self, state: RequestState) -> list[StepOutput]:
        """With the results of all its beams a search takes a step; its outputs if that was the last."""
        search = state.beams
        if search is None or not state.sequences or not search.answered:
            return []
        first = state.sequences[0]
        for sequence in self._forking.advance(search, state.sequences):
            self._end(sequence)
        if search.live:
            return []
        outputs = []
        for index, result in enumerate(search.results[: state.request.params.n]):
            entries = result.beam.entries()
            last = result.beam.token_id
            output = self._output(first, "stop" if last in search.rules.stop_ids else "length", index)
            output.token_ids, output.logprobs = [entry.token_ids[0] for entry in entries], entries
            output.stop_reason = last if last in state.stop_ids - state.eos_ids else None
            outputs.append(output)
        return outputs

    def _accept(self, ride: Ride, answer: SlotResult) -> StepOutput | None:
        """Append a result to its sequence, fork, end; the news of it, if any."""
        sequence, _, _, count, num_drafts, samples = ride
        before = sequence.num_confirmed
        taken, stop = 0, None
        if samples and sequence.foreseen:
            sequence.foreseen -= 1
        elif samples:
            sequence.num_pending -= 1
            if num_drafts:
                accepted = len(answer.token_ids) - 1
                self._drafting.verified(sequence, num_drafts, accepted)
                count -= num_drafts - accepted
                sequence.num_computed -= num_drafts - accepted  # nothing was planned on top of them
            if sequence.speculating and not sequence.num_pending:
                sequence.speculating = False
                sequence.drafts = answer.draft_ids
                if sequence.asked:
                    sequence.asked = False
                    self._drafting.answered(sequence, bool(answer.draft_ids))
            if sequence.beam is None:
                taken, stop = append_tokens(sequence, answer.token_ids)
            else:
                assert answer.logprobs is not None, "beams ask for log probabilities"
                sequence.beam.answer = answer.logprobs[0]
        # Of drafts behind the one that ends it there is KV, but they are no tokens of it.
        sequence.num_confirmed = confirmed = min(before + count, len(sequence.token_ids))
        size = self.config.block_size
        if confirmed // size != before // size:
            self._kv.commit(sequence, sequence.chain, confirmed)
        if sequence.state.unforked and confirmed >= sequence.num_prompt:
            self._forking.complete(sequence)
        if self._kv.bounds_growth:  # after the forks: they look further back
            self._kv.trim(sequence, confirmed)
        if stop is not None:
            self._end(sequence)
        prompt_logprobs = answer.prompt_logprobs or None
        if prompt_logprobs is not None:
            sequence.num_prompt_logprobs += len(prompt_logprobs)
        elif taken == 0:
            return None
        output = self._output(sequence, stop.reason if stop else None)
        output.token_ids = answer.token_ids if taken == len(answer.token_ids) else answer.token_ids[:taken]
        if answer.logprobs is not None:
            output.logprobs = answer.logprobs[:taken]
        if prompt_logprobs is not None:
            output.prompt_logprobs = prompt_logprobs
        if stop is not None:
            output.stop_reason = stop.token_id
        return output

    # --- helpers

    def _end(self, sequence: Sequence) -> None:
        """Let go of a sequence, and of its request with the last one.

        If it was aborted before the others could fork from it, the next takes its part.
        """
        state = sequence.state
        self._roster.retire(sequence)
        state.sequences.remove(sequence)
        if state.unforked:
            self._forking.start(state)
        elif not state.sequences:
            del self._requests[state.request.request_id]

    def _end_request(
        self, state: RequestState, reason: FinishReason, error: str | None = None
    ) -> list[StepOutput]:
        """End every unfinished completion of a request, those that do not exist yet included."""
        if state.beams is not None:
            completions = range(num_completions(state.request))
            outputs = [self._output(state.sequences[0], reason, index) for index in completions]
        else:
            outputs = [self._output(sequence, reason) for sequence in state.sequences]
        outputs += [
            StepOutput(request_id=state.request.request_id, index=index, finish_reason=reason)
            for index in state.unforked
        ]
        for output in outputs:
            output.error = error
        state.unforked.clear()
        for sequence in tuple(state.sequences):
            self._end(sequence)
        return outputs

    @staticmethod
    def _output(sequence: Sequence, reason: FinishReason | None, index: int | None = None) -> StepOutput:
        return StepOutput(
            request_id=sequence.state.request.request_id,
            index=sequence.index if index is None else index,
            finish_reason=reason,
            num_cached_tokens=sequence.num_cached_tokens,
            num_preemptions=sequence.num_preemptions,
            scheduled_time=sequence.scheduled_time,
        )
