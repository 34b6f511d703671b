"""Sampling operations: from logits to a filtered distribution, and from that to token ids.

Knows tensors, not requests or slots. Logits are `[R, V]` fp32 on the device (of any
float dtype where an operation says so); everything else that
comes in is small and lives on the host, where the sampler keeps it, so that which work is needed
is decided without reading the device. On a CPU the reference may look at a few values
where that saves a pass over `[R, V]`.

A row's result depends on its own row only, bit for bit: sums over a row are taken by kernels that
never split a row among threads (softmax, cumsum, blocks of fixed size), maxima are exact anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from quire.ops.coupling import exponentials
from quire.ops.upload import upload

_NUCLEUS_WINDOW = 256
"""Most likely tokens looked at first for top-p alone; most nuclei are smaller."""

_BLOCK = 256
"""Tokens per block of the two-level sum that `draw_from` searches."""


class SamplingOps:
    """What a sampler asks of the device. Inputs are never written to; a result may be the input itself.

    Sparse entries are parallel host tensors `rows` and `ids`, `[E]` int64, with no pair twice.
    """

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        """`[R, V] -> [R]` int64: the greatest value's id, the lowest among equals; a NaN if there is one."""
        if logits.device.type != "cpu":
            return logits.argmax(-1)
        if logits.dtype == torch.bfloat16 and (best := _argmax_of_bits(logits)) is not None:
            return best
        # numpy does it in vector registers, which torch does not use here: ten times faster and more.
        return torch.from_numpy(logits.detach().float().numpy().argmax(-1))

    def peak(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each row's greatest value, where it is, and whether there is anything to draw.

        Args:
            logits: `[R, V]`, any float dtype.

        Returns:
            ids: `[R]` int64, as `argmax` finds them.
            values: `[R]`, of the logits' dtype or fp32; NaN where the row has one.
            invalid: `[R]` bool; True where the row has a NaN, or nothing above -inf.
        """
        ids = self.argmax(logits)
        values = logits.gather(1, ids.unsqueeze(1)).squeeze(1)
        return ids, values, (values > -torch.inf).logical_not_()  # NaN is not greater than anything

    def keep_tokens(self, logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """-inf everywhere but at the entries, in every row that has an entry; other rows unchanged."""
        flat = _flat(logits, rows, ids)
        out = logits.clone(memory_format=torch.contiguous_format)
        kept = out.view(-1)[flat]
        out[upload(logits.device, rows)[0]] = -torch.inf  # a row once per entry: harmless, and no sort
        out.view(-1)[flat] = kept
        return out

    def mask_tokens(self, logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """-inf at the entries."""
        out = logits.clone(memory_format=torch.contiguous_format)
        out.view(-1)[_flat(logits, rows, ids)] = -torch.inf
        return out

    def bias_tokens(
        self, logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """`values` (`[E]` fp32, host) added at the entries."""
        flat = _flat(logits, rows, ids)
        out = logits.clone(memory_format=torch.contiguous_format)
        out.view(-1)[flat] += upload(logits.device, values)[0]
        return out

    def apply_penalties(
        self,
        logits: torch.Tensor,
        rows: torch.Tensor,
        ids: torch.Tensor,
        counts: torch.Tensor,
        repetition: torch.Tensor,
        frequency: torch.Tensor,
        presence: torch.Tensor,
    ) -> torch.Tensor:
        """Penalise the tokens that a row's prompt and output hold: repetition, then frequency, then presence.

        Sparse, because a row's history is much shorter than its vocabulary.

        Args:
            logits: `[R, V]` fp32.
            rows, ids: the tokens each row has seen.
            counts: `[E]` fp32, host; occurrences in the output; 0 for a token of the prompt alone.
            repetition: `[R]` fp32, host; positive logits are divided, others multiplied by it (CTRL,
                Keskar et al. 2019).
            frequency, presence: `[R]` fp32, host; subtracted per occurrence, and once.
        """
        device = logits.device
        flat, factor, count, each, once = upload(
            device, rows * logits.shape[1] + ids, repetition[rows], counts, frequency[rows], presence[rows]
        )
        out = logits.clone(memory_format=torch.contiguous_format)
        seen = out.view(-1)[flat]  # [E]
        seen = torch.where(seen > 0, seen / factor, seen * factor)
        seen = seen - each * count
        seen = seen - once * (count > 0)
        out.view(-1)[flat] = seen
        return out

    def apply_temperature(self, logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        """Each row, of any float dtype, divided by its temperature, `[R]` fp32 above 0, host.

        Returns:
            `[R, V]` fp32; the logits themselves if every temperature is 1.
        """
        if bool((temperature == 1).all()):
            return logits
        return logits / upload(logits.device, temperature)[0].unsqueeze(1)

    def apply_min_p(self, logits: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
        """-inf where a token is less than `min_p` times as likely as its row's most likely one.

        Args:
            logits: `[R, V]` fp32.
            min_p: `[R]` fp64 in [0, 1], host; 0 for off.
        """
        if not bool((min_p > 0).any()):
            return logits
        # p >= min_p * p_max is, in logits, l >= l_max + log(min_p): no softmax needed.
        floor = logits.amax(-1) + upload(logits.device, min_p.log().float())[0]  # [R]
        return torch.where(logits < floor.unsqueeze(1), -torch.inf, logits)

    def apply_top_k_top_p(
        self, logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
    ) -> torch.Tensor:
        """-inf outside each row's k most likely tokens, then outside their nucleus.

        The nucleus is the shortest run of most likely tokens whose probability, relative to the k,
        reaches p (Holtzman et al. 2020). Among equals the lower id ranks first, so exactly k tokens remain.
        The vocabulary is sorted only where k is large or a nucleus is wider than a window.

        Args:
            logits: `[R, V]` fp32.
            top_k: `[R]` int64, host; at least 1; V or more for off.
            top_p: `[R]` fp64 in (0, 1], host; 1 for off.
        """
        bounded = top_k < logits.shape[1]
        out = logits
        # Rows are cut alike whatever their neighbours ask for, so each kind goes its own way.
        for chosen, find in ((bounded, _bounded_cut), (~bounded & (top_p < 1), _nucleus_cut)):
            if not bool(chosen.any()):
                continue
            if bool(chosen.all()):
                return _keep(logits, find(logits, top_k, top_p))
            part = chosen.to(logits.device)
            out = logits.clone() if out is logits else out
            out[part] = _keep(logits[part], find(logits[part], top_k[chosen], top_p[chosen]))
        return out

    def draw_from(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """One token per row from softmax(logits), by inverting the cumulative distribution in order of id.

        A token of probability 0 is never drawn, whatever the uniform. Blocks are summed and searched
        first, then the tokens of one block, both in fp64.

        Args:
            logits: `[R, V]`, any float dtype, no +inf; computed in fp32.
            uniforms: `[R]` fp64 in [0, 1), host.

        Returns:
            `[R]` int64; some id in [0, V) for a row with NaN or with nothing but -inf.
        """
        found = _search(
            logits.softmax(-1, dtype=torch.float32), upload(logits.device, uniforms)[0], strict=True
        )
        return found.clamp(max=logits.shape[1] - 1)

    def draw_coupled(self, logits: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """One token per row from softmax(logits), such that rows alike with the same key mostly get the same.

        The winner of a race, see `quire.ops.coupling`. A token of probability 0 never is.

        Args:
            logits: `[R, V]`, any float dtype, no +inf; computed in fp32.
            keys: `[R, 2]` int64, each below 2**32, host.

        Returns:
            `[R]` int64; some id in [0, V) for a row with NaN or with nothing but -inf.
        """
        probs = logits.softmax(-1, dtype=torch.float32)  # [R, V]
        return probs.div_(exponentials(upload(logits.device, keys)[0], logits.shape[1])).argmax(-1)


def _argmax_of_bits(logits: torch.Tensor) -> torch.Tensor | None:
    """The argmax of bf16 rows without widening them: positive floats are ordered as their bits are.

    Returns:
        `[R]` int64; None where that does not hold: a row has nothing above 0, or something not finite.
    """
    if 0 in logits.shape:
        return None
    # A NaN may be negative, and then its bits are not the greatest. It makes the sum one all the same.
    if not bool(logits.sum(-1).isfinite().all()):
        return None
    # Maxima of blocks first: all threads look for them, and what is left to search is small.
    width = math.gcd(logits.shape[1], _BLOCK)
    blocks = logits.detach().view(torch.int16).reshape(len(logits), -1, width)  # [R, N, W]
    tops = blocks.amax(-1).numpy()  # [R, N]
    block = tops.argmax(-1)
    rows = np.arange(len(tops))
    if tops[rows, block].min() <= 0:
        return None
    inside = blocks.numpy()[rows, block].argmax(-1)
    return torch.from_numpy(block * width + inside)


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where rows end when tokens are ranked by logit, then by id.

    Attributes:
        value: `[R, 1]` logit of the last token kept.
        count: `[R, 1]` tokens kept.
        split: `[R]` bool; True where an equal of the last token is not kept.
    """

    value: torch.Tensor
    count: torch.Tensor
    split: torch.Tensor

    @classmethod
    def after(cls, ranked: torch.Tensor, count: torch.Tensor) -> _Cut:
        """The cut after `count` (`[R, 1]`) of the greatest logits, `[R, W]` in descending order."""
        value = ranked.gather(1, count - 1)
        following = ranked.gather(1, count.clamp(max=ranked.shape[1] - 1))
        split = (count < ranked.shape[1]) & (following == value) & (value > -torch.inf)
        return cls(value, count, split.squeeze(1))


def _bounded_cut(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> _Cut:
    """The cut of rows with a top-k below V; their top-p is relative to the k."""
    vocab = logits.shape[1]
    width = int(top_k.max()) + 1  # one more, to see whether the last kept token has an equal
    ranked = _ranked(logits) if width * 8 >= vocab else logits.topk(width, dim=-1).values  # [R, W]
    k = top_k.to(logits.device).unsqueeze(1)
    if bool((top_p >= 1).all()):
        return _Cut.after(ranked, k)
    p = top_p.to(logits.device).unsqueeze(1)
    weights = (ranked.double() - ranked[:, :1].double()).exp()
    weights = weights.masked_fill(torch.arange(ranked.shape[1], device=logits.device) >= k, 0.0)
    ends = weights.cumsum(1)
    reaching = (ends < p * ends[:, -1:]).sum(1, keepdim=True) + 1
    return _Cut.after(ranked, torch.where(p >= 1, k, torch.minimum(reaching, k)))


def _nucleus_cut(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> _Cut:
    """The cut of rows that have a top-p alone."""
    p = top_p.to(logits.device)
    # Trying a window first takes a look at its outcome: free on a CPU, a wait on a GPU.
    if logits.device.type != "cpu" or logits.shape[1] <= 8 * _NUCLEUS_WINDOW:
        ranked = _ranked(logits)
        return _Cut.after(ranked, _nucleus_size(ranked, p))
    ranked = logits.topk(_NUCLEUS_WINDOW + 1, dim=-1).values
    weights = (ranked.double() - ranked[:, :1].double()).exp()
    total = 1 / logits.softmax(-1).amax(-1, keepdim=True).double()  # in units of the greatest probability
    count = (weights.cumsum(1) < p.unsqueeze(1) * total).sum(1, keepdim=True) + 1
    wide = (count > _NUCLEUS_WINDOW).squeeze(1)
    cut = _Cut.after(ranked, count.clamp(max=_NUCLEUS_WINDOW))
    if bool(wide.any()):
        ranked = _ranked(logits[wide])
        rest = _Cut.after(ranked, _nucleus_size(ranked, p[wide]))
        cut.value[wide], cut.count[wide], cut.split[wide] = rest.value, rest.count, rest.split
    return cut


def _nucleus_size(ranked: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """How many of `ranked` (`[R, V]`, descending) reach probability p, `[R, 1]`."""
    return (_search(ranked.softmax(-1), p, strict=False) + 1).clamp(max=ranked.shape[1]).unsqueeze(1)


def _ranked(logits: torch.Tensor) -> torch.Tensor:
    """All logits of each row, descending."""
    if logits.device.type == "cpu":
        # Only values are wanted, and numpy sorts these in vector registers: some twenty times faster.
        return torch.from_numpy(np.sort(logits.detach().numpy(), axis=1)).flip(1)
    return logits.sort(-1, descending=True).values


def _keep(logits: torch.Tensor, cut: _Cut) -> torch.Tensor:
    """-inf past the cut; of the tokens equal to the last one kept, the lowest ids stay."""
    out = torch.where(logits < cut.value, -torch.inf, logits)
    if bool(cut.split.any()):
        part = logits[cut.split]  # [R', V]
        value = cut.value[cut.split]
        row, column = (part == value).nonzero(as_tuple=True)  # [E] each, by row and then by id
        many = row.bincount(minlength=len(part))
        rank = torch.arange(len(row), device=logits.device) - (many.cumsum(0) - many)[row]
        wanted = cut.count[cut.split].squeeze(1) - (part > value).sum(1)
        late = rank >= wanted[row]
        out[cut.split.nonzero().squeeze(1)[row[late]], column[late]] = -torch.inf
    return out


def _search(probs: torch.Tensor, share: torch.Tensor, *, strict: bool) -> torch.Tensor:
    """First index at which the running sum of a row exceeds (or, not strict, reaches) a share of its total.

    Two levels: sums of blocks are searched, then the entries of one block, both in fp64. An index
    without mass of its own is never found, also where rounding puts the target past the total.

    Args:
        probs: `[R, V]` fp32, not negative.
        share: `[R]` fp64 in [0, 1] (above 0 if not strict).

    Returns:
        `[R]` int64, V or more only for rows without any mass.
    """
    rows, vocab = probs.shape
    if rows == 0:
        return torch.empty(0, dtype=torch.int64, device=probs.device)
    whole = vocab // _BLOCK * _BLOCK
    sums = probs[:, :whole].view(rows, whole // _BLOCK, _BLOCK).sum(-1)  # [R, N]
    if whole < vocab:
        sums = torch.cat((sums, probs[:, whole:].sum(-1, keepdim=True)), dim=1)
    ends = sums.double().cumsum(1)  # [R, N]
    target = share.unsqueeze(1) * ends[:, -1:]  # [R, 1]
    block = _first(ends, target, strict)  # [R, 1]
    start = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=probs.device)  # [R, 256]
    inside = probs.gather(1, columns.clamp(max=vocab - 1)).double()
    within = inside.masked_fill(columns >= vocab, 0.0).cumsum(1)
    return (block * _BLOCK + _first(within, target - start, strict)).squeeze(1)


def _first(ends: torch.Tensor, target: torch.Tensor, strict: bool) -> torch.Tensor:
    """First index whose running sum exceeds or reaches the target; at most the last with mass, `[R, 1]`."""
    last = torch.searchsorted(ends, ends[:, -1:].contiguous())
    found = torch.searchsorted(ends, target, right=strict)
    return torch.minimum(found, last).clamp(max=ends.shape[1] - 1)


def _flat(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Entries as indices into the flattened logits, `[E]` int64 on the device."""
    return upload(logits.device, rows * logits.shape[1] + ids)[0]
