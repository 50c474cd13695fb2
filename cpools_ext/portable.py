"""Corner pooling by operators that every runtime has: what an exported network consists of."""

from torch import Tensor
from torch.nn import functional as F

MOST_CELLS = 1024  # longest line of a map whose size is not fixed when it is exported


def corner_pool(x: Tensor, dim: int, reverse: bool) -> Tensor:
    """Computes the running maximum of each line in ``log2`` of its length steps.

    After step n each element is the maximum of itself and of the 2^n - 1 elements before it.

    Args:
        x: Tensor[..., H, W]. Where the length of the lines is not fixed, at most
            :data:`MOST_CELLS`.
        dim: -2 or -1, the dimension along which lines are scanned.
        reverse: True: the scan runs from the last position to the first.

    Returns:
        Tensor[..., H, W], without the record of :func:`cpools_ext.reference.corner_pool`.
    """
    length = x.shape[dim]
    longest = length if isinstance(length, int) else MOST_CELLS
    shift = 1
    while shift < longest:
        padding = [0, shift] if reverse else [shift, 0]
        padded = F.pad(x, [0, 0, *padding] if dim == -2 else padding, value=-float("inf"))
        x = x.maximum(padded.narrow(dim, shift if reverse else 0, length))
        shift *= 2
    return x
