"""One worker in the engine's own process."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from quire.errors import CapacityError
from quire.plan import StepPlan, StepResult, TokenMasks
from quire.runtime.config import WorkerConfig
from quire.runtime.graphs import GraphReport
from quire.runtime.guessing import Legal
from quire.runtime.pinning import pin_threads
from quire.runtime.profile import MemoryProfile, profile
from quire.runtime.shortage import out_of_memory, profile_too_large, weights_too_large
from quire.runtime.worker import Worker

logger = logging.getLogger(__name__)


class Executor(Protocol):
    """What the engine core asks of wherever the workers run."""

    @property
    def overlaps(self) -> bool:
        """Whether the workers go on by themselves: then a step is submitted before the last is collected."""

    @property
    def stepping(self) -> AbstractContextManager[object]:
        """What the joints are called within; entered once for all of a step's, since it costs."""

    def submit(self, plan: StepPlan) -> None:
        """Begin a step: its forward pass."""

    def sample(self, step_id: int, masks: TokenMasks | None = None) -> None:
        """Draw the step's tokens, of some slots among few. What the step before has drawn was collected."""

    def collect(self, step_id: int, legal: Legal | None = None) -> StepResult:
        """The step's results, once they are there; `legal` knows the masks of what is proposed to follow."""

    def shutdown(self) -> None:
        """Free the workers and their memory."""


class InProcessExecutor:
    """Runs one worker by calling it."""

    def __init__(self, config: WorkerConfig) -> None:
        """Load the model.

        Raises:
            CapacityError: the device has no memory for it.
            PluginError, ModelError: something the configuration names cannot be loaded.
        """
        try:
            self.worker = Worker(config)
        except Exception as error:
            if out_of_memory(error):
                raise CapacityError(weights_too_large(error)) from error
            raise
        self._inference = torch.inference_mode()  # made once: each step enters it
        self._to_pin = config.threads.cpus if config.device == "cpu" and config.cpu_pinning else ()

    def profile(self) -> MemoryProfile:
        """What weights and activations take, and what a KV block costs.

        Raises:
            CapacityError: there is no memory for a step of full size.
        """
        try:
            return profile(self.worker)
        except Exception as error:
            if out_of_memory(error):
                config = self.worker.config
                raise CapacityError(
                    profile_too_large(error, config.max_num_batched_tokens, config.max_num_seqs)
                ) from error
            raise

    def allocate(self, num_blocks: int) -> int:
        """Take KV memory; returns its bytes.

        Raises:
            CapacityError: the device refuses.
        """
        try:
            self.worker.allocate(num_blocks)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            size = self.worker.bytes_per_block * num_blocks
            raise CapacityError(
                f"The device refused {size / 2**30:.2f} GiB for {num_blocks} KV blocks: {error}. "
                f"Lower gpu_memory_utilization or set kv_cache_memory_bytes."
            ) from error
        assert self.worker.kv is not None
        return self.worker.kv.nbytes()

    @property
    def can_capture(self) -> bool:
        """Whether decode steps are captured here."""
        return self.worker.can_capture

    def capture(self) -> GraphReport:
        """Capture decode steps as graphs. `allocate` comes first."""
        return self.worker.capture()

    @property
    def overlaps(self) -> bool:
        """Where the device is asynchronous."""
        return self.worker.device.asynchronous

    @property
    def stepping(self) -> AbstractContextManager[object]:
        """PyTorch's inference mode."""
        return self._inference

    def submit(self, plan: StepPlan) -> None:
        """See `Executor`."""
        if self._to_pin:  # here, since it is the thread that runs the steps whose team is bound
            cpus, self._to_pin = self._to_pin, ()
            if (reason := pin_threads(cpus)) is not None:
                logger.warning("Threads are not bound to processors: %s", reason)
        self.worker.submit(plan)

    def sample(self, step_id: int, masks: TokenMasks | None = None) -> None:
        """See `Executor`."""
        self.worker.sample(step_id, masks)

    def collect(self, step_id: int, legal: Legal | None = None) -> StepResult:
        """See `Executor`."""
        return self.worker.collect(step_id, legal)

    def shutdown(self) -> None:
        """Drop the worker: its weights and KV memory go with it."""
        device = self.worker.device
        del self.worker
        device.empty_cache()
