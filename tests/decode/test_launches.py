"""Decoding on a GPU: few operators, each of which costs it a launch, and no waits."""

import pytest
import torch

from benchmarks.decoding import Operators, decoders, noise_maps
from tests.support.other_device import OTHER, OtherDevice

# The best peaks of both heatmaps are one operator: the peaks of each, a topk and a launch more.
MOST = {
    "decode_corners": 4,
    "decode_centripetal": 54,
    "decode_central_region": 47,
    "decode_centers": 13,
}


@pytest.mark.parametrize("name", MOST)
def test_operators_and_waits(name: str) -> None:
    wanted = decoders(noise_maps(torch.device("cpu"), 24))[name]()
    with OtherDevice() as other:
        decode = decoders(noise_maps(OTHER, 24))[name]
        with Operators() as operators:
            found = decode()
        assert not other.waits
        found = found.cpu()
    torch.testing.assert_close(found, wanted)
    assert len(operators.names) <= MOST[name], operators.names


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", MOST)
def test_on_a_gpu(name: str) -> None:
    """The scores of the CPU, as others may come first among nearly equal ones; without a wait."""
    wanted = decoders(noise_maps(torch.device("cpu"), 24))[name]()
    decode = decoders(noise_maps(torch.device("cuda"), 24))[name]
    decode()
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = decode()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    torch.testing.assert_close(found[..., 4].cpu(), wanted[..., 4], rtol=0, atol=1e-5)
