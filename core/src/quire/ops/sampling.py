"""Sampling operations: from logits to a filtered distribution, and from that to token ids.

Knows tensors, not requests or slots. Logits are `[R, V]` fp32 on the device; everything else that
comes in is small and lives on the host, where the sampler keeps it, so that which work is needed
is decided without reading the device. On a CPU the reference may look at a few values
where that saves a pass over `[R, V]`.

A row's result depends on its own row only, bit for bit: sums over a row are taken by kernels that
never split a row among threads (softmax, cumsum, blocks of fixed size), maxima are exact anyway.
"""

from __future__ import annotations

import torch

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
        return logits.argmax(-1)

    def keep_tokens(self, logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """-inf everywhere but at the entries, in every row that has an entry; other rows unchanged."""
        flat = _flat(logits, rows, ids)
        out = logits.clone(memory_format=torch.contiguous_format)
        kept = out.view(-1)[flat]
        out[rows.to(logits.device)] = -torch.inf  # a row once per entry: harmless, and no sort
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
        out.view(-1)[flat] += values.to(logits.device)
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
        flat = _flat(logits, rows, ids)
        factor, count = repetition[rows].to(logits.device), counts.to(logits.device)
        out = logits.clone(memory_format=torch.contiguous_format)
        seen = out.view(-1)[flat]  # [E]
        seen = torch.where(seen > 0, seen / factor, seen * factor)
        seen = seen - frequency[rows].to(logits.device) * count
        seen = seen - presence[rows].to(logits.device) * (count > 0)
        out.view(-1)[flat] = seen
        return out

    def apply_temperature(self, logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        """Each row divided by its temperature, `[R]` fp32 above 0, host."""
        if bool((temperature == 1).all()):
            return logits
        return logits / temperature.to(logits.device).unsqueeze(1)

    def apply_min_p(self, logits: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
        """-inf where a token is less than `min_p` times as likely as its row's most likely one.

        Args:
            logits: `[R, V]` fp32.
            min_p: `[R]` fp64 in [0, 1], host; 0 for off.
        """
        if not bool((min_p > 0).any()):
            return logits
        # p >= min_p * p_max is, in logits, l >= l_max + log(min_p): no softmax needed.
        floor = logits.amax(-1) + min_p.log().float().to(logits.device)  # [R]
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
        vocab = logits.shape[1]
        filtered = (top_k < vocab) | (top_p < 1)
        if not bool(filtered.any()):
            return logits
        if not bool(filtered.all()):
            chosen = filtered.to(logits.device)
            out = logits.clone()
            out[chosen] = self.apply_top_k_top_p(logits[chosen], top_k[filtered], top_p[filtered])
            return out
        unbounded = top_k >= vocab
        window = int(top_k[~unbounded].max()) if not bool(unbounded.all()) else 0
        if bool(unbounded.any()):
            window = max(window, _NUCLEUS_WINDOW) if logits.device.type == "cpu" else vocab
        kept, settled = _top(logits, top_k, top_p, window)
        if not bool(settled.all()):
            wide = ~settled
            kept[wide] = _top(logits[wide], top_k[wide.cpu()], top_p[wide.cpu()], vocab)[0]
        return kept

    def draw_from(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """One token per row from softmax(logits), by inverting the cumulative distribution in order of id.

        A token of probability 0 is never drawn, whatever the uniform. Blocks are summed and searched
        first, then the tokens of one block, both in fp64.

        Args:
            logits: `[R, V]` fp32, no +inf.
            uniforms: `[R]` fp64 in [0, 1), host.

        Returns:
            `[R]` int64; some id in [0, V) for a row with NaN or with nothing but -inf.
        """
        rows, vocab = logits.shape
        if rows == 0:
            return torch.empty(0, dtype=torch.int64, device=logits.device)
        probs = logits.softmax(-1)  # [R, V]
        whole = vocab // _BLOCK * _BLOCK
        sums = probs[:, :whole].view(rows, whole // _BLOCK, _BLOCK).sum(-1)  # [R, N]
        if whole < vocab:
            sums = torch.cat((sums, probs[:, whole:].sum(-1, keepdim=True)), dim=1)
        ends = sums.double().cumsum(1)  # [R, N]
        target = uniforms.to(logits.device).unsqueeze(1) * ends[:, -1:]  # [R, 1]
        block = _first_above(ends, target)  # [R, 1]
        start = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
        columns = block * _BLOCK + torch.arange(_BLOCK, device=logits.device)  # [R, 256]
        inside = probs.gather(1, columns.clamp(max=vocab - 1)).double()
        within = inside.masked_fill(columns >= vocab, 0.0).cumsum(1)
        return (block * _BLOCK + _first_above(within, target - start)).squeeze(1).clamp(max=vocab - 1)


def _flat(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Entries as indices into the flattened logits, `[E]` int64 on the device."""
    return (rows * logits.shape[1] + ids).to(logits.device)


def _first_above(ends: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """First index whose running sum exceeds the target, which therefore has mass of its own, `[R, 1]`.

    Rounding may put the target at or past the total: then the last index that has mass.
    """
    last = torch.searchsorted(ends, ends[:, -1:].contiguous())
    found = torch.searchsorted(ends, target, right=True)
    return torch.minimum(found, last).clamp(max=ends.shape[1] - 1)


def _top(
    logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Filter rows by looking at the `window` most likely tokens of each.

    Returns:
        filtered logits `[R, V]`, and `[R]` bool: False where the nucleus may reach past the window.
    """
    device, vocab = logits.device, logits.shape[1]
    width = min(window + 1, vocab)  # one more, to see whether the last kept token has an equal
    if width * 8 >= vocab:
        width, values = vocab, logits.sort(-1, descending=True).values
    else:
        values = logits.topk(width, dim=-1).values  # [R, W]
    k, p = top_k.to(device).unsqueeze(1), top_p.to(device).unsqueeze(1)
    column = torch.arange(width, device=device)
    weights = (values.double() - values[:, :1].double()).exp().masked_fill(column >= k, 0.0)
    ends = weights.cumsum(1)
    total = ends[:, -1:].clone()  # [R, 1], in units of the most likely token's probability
    unbounded = top_k >= vocab
    if bool(unbounded.any()):
        chosen = unbounded.to(device)
        # The same number whatever the window, so that neighbours cannot move a row's cut.
        total[chosen] = 1 / logits[chosen].softmax(-1).amax(-1, keepdim=True).double()
    before = torch.cat((torch.zeros_like(total), ends[:, :-1]), dim=1)
    inside = ((before < p * total) | (p >= 1)) & (column < k)
    count = inside.sum(1, keepdim=True).clamp(min=1)  # [R, 1] tokens to keep
    cut = values.gather(1, count - 1)
    kept = torch.where(logits < cut, -torch.inf, logits)
    following = values.gather(1, count.clamp(max=width - 1))
    split = ((count < width) & (following == cut) & (cut > -torch.inf)).squeeze(1)
    if bool(split.any()):
        wanted = count - (values > cut).sum(1, keepdim=True)
        kept[split] = _drop_late_equals(kept[split], cut[split], wanted[split])
    return kept, (count < width).squeeze(1) | (width == vocab) | ~unbounded.to(device)


def _drop_late_equals(logits: torch.Tensor, value: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of each row's tokens equal to `value` (`[R, 1]`), keep the `wanted` (`[R, 1]`) lowest ids."""
    equal = logits == value  # [R, V]
    row, column = equal.nonzero(as_tuple=True)  # [E] each, by row and then by id
    many = equal.sum(1)
    rank = torch.arange(len(row), device=logits.device) - (many.cumsum(0) - many)[row]
    late = rank >= wanted.squeeze(1)[row]
    logits[row[late], column[late]] = -torch.inf
    return logits
