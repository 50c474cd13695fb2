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
_INDEXED |= {"aten::_unsafe_index", "aten::_unsafe_index_put"}
# PyTorch asks how many there are.
_WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}
_WAITING |= {"aten::_unique2", "aten::unique_consecutive", "aten::unique_dim", "aten::bincount"}
_WAITING |= {"torchvision::nms"}


class _There(torch.Tensor):
    """A tensor on the other device, with its numbers."""

    @staticmethod
    def __new__(cls, numbers):
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, **layout, dtype=numbers.dtype, device=OTHER
        )
        made.numbers = numbers
        made.of_number = False  # it holds a number of Python, which a GPU's operators take as such
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
    tensors = _tensors(args, kwargs)
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

    result = tree_map(placed, given)
    if isinstance(result, _There):
        result.of_number = operator is torch.ops.aten.scalar_tensor.default
    return result


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
        if _waits(operator, args, kwargs):
            self.waits.append((name, _lines_of_core()))
        if _uploads(operator, args, kwargs):
            self.uploads.append((name, _lines_of_core()))
        return _computed(operator, args, kwargs, self._float64)


def _waits(operator, args, kwargs):
    """True for a copy to the CPU, and for what has as many elements as the numbers say."""
    name = operator._schema.name
    if not args or not isinstance(args[0], _There):
        return False
    if name == "aten::_to_copy":
        return kwargs.get("device") == torch.device("cpu")
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    if name == "aten::prod":
        return torch.is_grad_enabled()  # its gradient asks whether a factor is 0
    if name not in _INDEXED:
        return name in _WAITING
    masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
    # A number of Python where one mask is true: PyTorch makes it masked_fill, but not of a tensor.
    filled = len(args) > 2 and len(_tensors(args[1], {})) == 1
    filled = filled and getattr(args[2], "of_number", True)  # False for others of the device
    return bool(masks) and not filled


def _tensors(args, kwargs):
    return [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]


def _uploads(operator, args, kwargs):
    """True for a copy to the other device, and for indices on the CPU, which are copied there."""
    if operator is torch.ops.aten.copy_.default:
        return isinstance(args[0], _There) and not isinstance(args[1], _There)
    if operator is torch.ops.aten._to_copy.default:
        return kwargs.get("device") == OTHER and not isinstance(args[0], _There)
    if operator._schema.name in _INDEXED and isinstance(args[0], _There):
        return not all(isinstance(x, _There) or not x.dim() for x in _tensors(args, {}))
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
