"""Host tensors on their way to a GPU; without one they stay where they are."""

from __future__ import annotations

import pytest
import torch

from quire.ops.upload import upload

ON_GPU = torch.cuda.is_available()


@pytest.mark.gpu
def test_a_device_gets_what_was_there_when_it_was_called() -> None:
    tensor, flags = torch.arange(1000), torch.tensor([True, False])
    moved = upload(torch.device("cuda" if ON_GPU else "cpu"), tensor, flags)
    if ON_GPU:  # copies wait for nothing that is done to the host's tensors later
        tensor.zero_()
    assert moved[0].tolist() == list(range(1000))
    assert moved[1].tolist() == [True, False]
