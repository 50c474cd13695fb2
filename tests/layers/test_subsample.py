"""Every second cell of a map."""

import pytest
import torch

from core.layers.subsample import every_cell


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_cells_and_their_gradient(size, layout):
    x = torch.arange(2.0 * 3 * size[0] * size[1]).view(2, 3, *size)
    x = x.contiguous(memory_format=layout).requires_grad_()
    cells, wanted = every_cell(x, 2), x[:, :, ::2, ::2]
    assert torch.equal(cells, wanted) and torch.equal(every_cell(x.detach(), 2), wanted)
    grad = torch.rand(wanted.shape).contiguous(memory_format=layout)
    (found,), (expected,) = (torch.autograd.grad(each, x, grad) for each in (cells, wanted))
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=layout)
