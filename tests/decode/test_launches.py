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
