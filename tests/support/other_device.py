"""A stand-in for a GPU: tensors on another device, which do not mix with those of the CPU.

They say that they are on PyTorch's meta device, and each has its numbers in a tensor on the CPU.
An operator takes tensors of one device, as with a GPU; a single number of the CPU goes with both.
As Apple's, the device may have no float64.
"""

import traceback
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

OTHER = torch.device("meta")
_COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}


class _There(torch.Tensor):
    """A tensor on the other device, with its numbers."""

    @staticmethod
    def __new__(cls, numbers):
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, **layout, dtype=numbers.dtype, device=OTHER
        )
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return _computed(operator, args, kwargs or {})


def _numbers(value):
    return value.numbers if isinstance(value, _There) else value


def _computed(operator, args, kwargs, float64=True):
    """Result of the operator, on its device; RuntimeError if devices are mixed.

    Without ``float64``, a result on the other device in that precision is a TypeError.
    """
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, _There)]
    name = operator._schema.name
    if there and operator not in _COPIES and name not in _INDEXED:
        here = [x for x in tensors if not isinstance(x, _There) and x.dim()]
        if here:
            raise RuntimeError(f"{name} mixes devices: {[x.shape for x in here]} are on the CPU")
    asked = kwargs.get("device")
    if operator is torch.ops.aten.copy_.default:
        goes_there = isinstance(args[0], _There)
    else:
        goes_there = bool(there) if asked is None else asked == OTHER
    if asked == OTHER:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    given = operator(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))
    same = {id(x.numbers): x for x in there}  # what is changed in place stays the same tensor

    def placed(value):
        if not goes_there or not isinstance(value, torch.Tensor):
            return value
        if value.dtype == torch.float64 and not float64:
            raise TypeError(f"{name}: this device has no float64")
        return same[id(value)] if id(value) in same else _There(value)

    return tree_map(placed, given)


class OtherDevice(TorchDispatchMode):
    """Within it there is the device ``OTHER``.

    Args:
        float64: the device has numbers in double precision.

    Attributes:
        waits: operators by which the CPU waited for the other device, and the lines of ``core``
            that they came from.
        uploads: those that copied from the CPU's memory, which a CUDA graph cannot record.
    """

    def __init__(self, float64=True):
        super().__init__()
        self.waits, self.uploads, self._float64 = [], [], float64
        self._factories = _Factories()

    def __enter__(self):
        self._factories.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._factories.__exit__(*error)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operator._schema.name
        comes_back = name == "aten::_to_copy" and kwargs.get("device") == torch.device("cpu")
        if (comes_back or name in _WAITING) and isinstance(args[0], _There):
            self.waits.append((name, _lines_of_core()))
        if _uploads(operator, args, kwargs):
            self.uploads.append((name, _lines_of_core()))
        return _computed(operator, args, kwargs, self._float64)


def _uploads(operator, args, kwargs):
    """True for a copy to the other device, and for indices on the CPU, which are copied there."""
    if operator is torch.ops.aten.copy_.default:
        return isinstance(args[0], _There) and not isinstance(args[1], _There)
    if operator is torch.ops.aten._to_copy.default:
        return kwargs.get("device") == OTHER and not isinstance(args[0], _There)
    if operator._schema.name in _INDEXED and isinstance(args[0], _There):
        here = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
        return not all(isinstance(x, _There) or not x.dim() for x in here)
    return False


def _lines_of_core():
    stack = traceback.extract_stack()
    return [f"{Path(f.filename).name}:{f.lineno}" for f in stack if "/core/" in f.filename]


class _Factories(TorchFunctionMode):
    """What makes tensors of Python's numbers, or those of tensors, without an operator."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.tolist and isinstance(args[0], _There):
            return args[0].cpu().tolist()
        if function is torch.Tensor.new_tensor and isinstance(args[0], _There):
            options = {"dtype": args[0].dtype, "device": OTHER, **kwargs}
            function, args, kwargs = torch.tensor, args[1:], options
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") == OTHER:
            del kwargs["device"]
            return function(*args, **kwargs).to(OTHER)
        return function(*args, **kwargs)
