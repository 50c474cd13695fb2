"""Decoding on a GPU: few operators, each of which costs it a launch, and no waits."""

import pytest
import torch

from benchmarks.decoding import Operators, decoders, noise_maps
from tests.support.other_device import OTHER, OtherDevice

# The peaks of both heatmaps are one operator, and two launches.
MOST = {
    "decode_corners": 39,
    "decode_centripetal": 71,
    "decode_central_region": 67,
    "decode_centers": 18,
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
