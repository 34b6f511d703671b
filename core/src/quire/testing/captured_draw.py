"""The part of `SamplerSuite` that holds samplers which draw inside captured steps, skipped for others."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from quire.contracts import CapturedDraw, Sampler, SampleRows
from quire.sampling_params import SamplingParams
from quire.testing.sampler_bench import EDITS, SHAPES, SLOTS, VOCAB, Bench, Seat, random_logits, random_seat

FILLING = -1


class CapturedDrawChecks:
    """Mixed into `SamplerSuite`."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("draw", range(4))
    def test_captured_steps_draw_what_the_sampler_draws(
        self, bench: Bench, draw: int, dtype: torch.dtype
    ) -> None:
        choose = random.Random(draw)
        seats = [random_seat(choose) for _ in range(SLOTS - 4)]
        seats += [shaped_seat(choose, outputs=[4] * n) for n in range(4)]
        choose.shuffle(seats)
        steps = CapturedSteps(bench, seats)
        slots = [slot for slot in range(SLOTS) if steps.draws([slot])]
        choose.shuffle(slots)
        logits = random_logits(len(slots), 60 + draw).to(dtype)
        _, expected = bench.run(steps.sampler, seats, logits, slots)
        ids, invalid = steps.run(slots, logits)
        assert (ids, invalid) == (expected, [False] * len(slots))
        for row, slot in enumerate(slots):
            assert steps.run([slot], logits[row : row + 1])[0] == [expected[row]]
        assert steps.run(slots, logits)[0] == expected  # again: nothing has changed

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_captured_steps_draw_coupled_what_the_sampler_does(
        self, bench: Bench, dtype: torch.dtype
    ) -> None:
        bench, choose = replace(bench, coupled=True), random.Random(17)
        seats = [shaped_seat(choose, outputs=[4] * n) for n in range(SLOTS - 1)]
        seats.append(Seat(SamplingParams(), seed=3))
        steps, slots = CapturedSteps(bench, seats), list(range(SLOTS))
        for turn in range(2):
            logits = random_logits(SLOTS, 90 + turn).to(dtype)
            _, expected = bench.run(steps.sampler, seats, logits)
            assert steps.run(slots, logits) == (expected, [False] * SLOTS)
            assert steps.run([SLOTS - 1], logits[-1:])[0] == expected[-1:]

    def test_some_rows_are_drawn_in_captured_steps(self, bench: Bench) -> None:
        """Or none need be declared; and what a row may be drawn by does not depend on its neighbours."""
        kinds = [{"temperature": 0.0}, *SHAPES.values(), *EDITS.values()]
        seats = [Seat(SamplingParams(**kind), seed=i, outputs=[6]) for i, kind in enumerate(kinds)]
        steps = CapturedSteps(bench, seats)
        drawn = [slot for slot in range(len(seats)) if steps.draws([slot])]
        assert drawn
        assert steps.draws(drawn)
        others = [slot for slot in range(len(seats)) if slot not in drawn]
        assert not any(steps.draws([*drawn, slot]) for slot in others)

    def test_captured_steps_read_the_parameters_of_a_slots_next_request(self, bench: Bench) -> None:
        choose = random.Random(5)
        seats = [shaped_seat(choose) for _ in range(SLOTS)]
        steps = CapturedSteps(bench, seats)
        slots = list(range(SLOTS))
        for turn in range(6):
            logits = random_logits(SLOTS, 70 + turn)
            _, expected = bench.run(steps.sampler, seats, logits)
            assert steps.run(slots, logits)[0] == expected
            for slot in choose.sample(slots, 3):
                seats[slot] = seat = shaped_seat(choose, outputs=[1] * turn)
                steps.sampler.remove(slot)
                steps.sampler.add(slot, seat.params, seat.seed, seat.prompt, seat.outputs)

    def test_steps_in_flight_keep_their_parameters(self, bench: Bench) -> None:
        """What one step reads is there when it runs, though the host has seated others by then."""
        hot = [Seat(SamplingParams(temperature=1.4, top_k=30), seed=i) for i in range(SLOTS)]
        cold = [Seat(SamplingParams(temperature=0.3, top_k=2), seed=50 + i) for i in range(SLOTS)]
        logits, slots = random_logits(SLOTS, 80), list(range(SLOTS))
        steps = CapturedSteps(bench, hot)
        _, expected = bench.run(steps.sampler, hot, logits)
        later = steps.begin(slots, logits)
        for slot, seat in enumerate(cold):
            steps.sampler.remove(slot)
            steps.sampler.add(slot, seat.params, seat.seed, seat.prompt, seat.outputs)
        steps.seats = cold
        assert steps.draws(slots)
        assert later[0].tolist() == expected
        _, expected = bench.run(steps.sampler, cold, logits)
        assert steps.run(slots, logits)[0] == expected

    def test_nan_in_a_captured_step_fails_its_own_row_only(self, bench: Bench) -> None:
        choose = random.Random(9)
        seats = [shaped_seat(choose) for _ in range(5)]
        steps, slots = CapturedSteps(bench, seats), list(range(5))
        logits = random_logits(5, 21)
        expected, _ = steps.run(slots, logits)
        logits[1, 13] = math.nan
        logits[2] = -math.inf
        logits[3] = math.nan
        ids, invalid = steps.run(slots, logits)
        assert invalid == [False, True, True, True, False]
        assert [ids[0], ids[4]] == [expected[0], expected[4]]
        assert all(0 <= token < VOCAB for token in ids)


class CapturedSteps:
    """A sampler with seats, and a captured draw for every size and form that was asked for.

    On a GPU these are graphs; elsewhere the work is done again. Rows that belong to nobody lie between and
    after the others.
    """

    def __init__(self, bench: Bench, seats: list[Seat]) -> None:
        self.seats = seats
        self.sampler: Sampler = bench.sampler(seats)
        self._device = bench.device
        found = self.sampler.captured_draw()
        if isinstance(found, str):
            assert found, "without a captured draw there is a reason"
            pytest.skip(f"nothing is drawn in captured steps: {found}")
        self._draw: CapturedDraw = found
        self._made: dict[tuple[int, int, torch.dtype], _Made] = {}

    def draws(self, slots: Sequence[int]) -> bool:
        """Whether these slots' rows can be drawn together."""
        return self._draw.prepare(self._rows(slots)) is not None

    def begin(self, slots: Sequence[int], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one row per slot; ids and invalid on the device, of these rows."""
        rows = self._rows(slots)
        form = self._draw.prepare(rows)
        assert form is not None
        assert 0 <= form < self._draw.forms
        count = len(slots)
        # As wide as sizes are apart: a row for nobody after each of these, and two more.
        size = 2 * count + 2
        key = (size, form, logits.dtype)
        if key not in self._made:
            self._made[key] = _Made(self._draw, form, size, logits.dtype, self._device)
        made, places = self._made[key], torch.arange(count, device=self._device) * 2
        made.logits.fill_(math.nan)
        made.slots.fill_(FILLING)
        made.positions.zero_()
        made.logits[places] = logits.to(self._device)
        made.slots[places] = torch.tensor(slots, device=self._device)
        made.positions[places] = torch.tensor(rows.positions, device=self._device)
        made.replay()
        return made.ids[places], made.invalid[places]

    def run(self, slots: Sequence[int], logits: torch.Tensor) -> tuple[list[int], list[bool]]:
        """The same, on the host."""
        ids, invalid = self.begin(slots, logits)
        return ids.tolist(), invalid.tolist()

    def _rows(self, slots: Sequence[int]) -> SampleRows:
        return SampleRows(list(slots), [self.seats[slot].position for slot in slots])


class _Made:
    """One captured draw, captured while nobody's rows are in it."""

    def __init__(self, draw: CapturedDraw, form: int, size: int, dtype: torch.dtype, device: str) -> None:
        self.logits = torch.zeros(size, VOCAB, dtype=dtype, device=device)
        self.slots = torch.full((size,), FILLING, device=device)
        self.positions = torch.zeros(size, dtype=torch.int64, device=device)
        self.ids = torch.zeros(size, dtype=torch.int64, device=device)
        self.invalid = torch.zeros(size, dtype=torch.bool, device=device)

        def work() -> None:
            ids, invalid = draw.draw(self.logits, self.slots, self.positions, form)
            assert (ids.dtype, invalid.dtype) == (torch.int64, torch.bool)
            self.ids.copy_(ids)
            self.invalid.copy_(invalid)

        self.replay = work
        if torch.device(device).type == "cuda":
            work()  # kernels are compiled before anything is captured
            torch.cuda.synchronize()
            graph: Any = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                work()
            self.replay = graph.replay


def shaped_seat(choose: random.Random, outputs: Sequence[int] = ()) -> Seat:
    """A request that no processor edits by naming tokens."""
    offered: dict[str, Any] = {
        "temperature": choose.choice([0.0, 0.5, 1.5]),
        "top_k": choose.choice([-1, 1, 3, 20]),
        "top_p": choose.choice([0.1, 0.5, 0.95]),
        "min_p": choose.choice([0.02, 0.3]),
    }
    taken = {name: value for name, value in offered.items() if choose.random() < 0.5}
    return Seat(SamplingParams(**taken), choose.getrandbits(64), outputs=list(outputs))
