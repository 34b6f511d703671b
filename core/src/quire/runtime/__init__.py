"""One worker: slots, batch, KV tensors, forward, sampling. Knows no scheduler and no text."""
