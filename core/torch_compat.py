"""Every private name of PyTorch that this package uses, and what differs between its versions.

PyTorch 2.8 and newer are supported. A private name may change with any release: each is behind a
function here that says what it does, since which version, and what follows where it is missing.
``tests/test_torch_compat.py`` fails for each that goes away or does something else, and for one
that is used anywhere else in this package.
"""

import contextlib
import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree

# PyTorch's own base class of these, ``_BatchNorm``, is private.
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Copies nested dictionaries, lists and tuples with ``function(tensor)`` for each tensor.

    ``torch.utils._pytree.tree_map_only``, in all versions.
    """
    return _pytree.tree_map_only(Tensor, function, value)


def tensors_in(value: Any) -> list[Tensor]:
    """Lists the tensors in nested dictionaries, lists and tuples, in their order.

    ``torch.utils._pytree.tree_leaves``, in all versions.
    """
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def cpu_has_bfloat16() -> bool:
    """True if convolutions in bfloat16 have vector instructions on this CPU.

    ``torch.ops.mkldnn._is_mkldnn_bf16_supported``, in all versions. Where it is missing, as in a
    PyTorch that was built without oneDNN, there are none.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def in_float64(tensor: Tensor) -> Tensor:
    """Copies a tensor in float64, to the CPU if its device has no such numbers.

    Of PyTorch's devices, Apple's ``mps`` has none, in all versions, and raises TypeError; the host
    then waits for the device.
    """
    try:
        return tensor.double()
    except TypeError:
        return tensor.cpu().double()


def shared_bytes(size: int) -> Tensor:
    """Allocates uint8 [size] that a process maps, instead of a copy, when it receives the tensor.

    ``torch.UntypedStorage._new_shared_fd_cpu``, in all versions, maps a file that has no name and
    lies in memory. Containers give /dev/shm, where PyTorch's public functions allocate, 64 MB by
    default. Where there are no such files (on other systems than Linux), PyTorch's functions are
    used; they touch the memory once more.
    """
    new_shared = getattr(torch.UntypedStorage, "_new_shared_fd_cpu", None)
    if new_shared is None or not hasattr(os, "memfd_create"):
        return torch.empty(size, dtype=torch.uint8).share_memory_()
    file = os.memfd_create("images")
    try:
        os.ftruncate(file, size)
        storage = new_shared(file, size)
    finally:
        os.close(file)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def end_recording(device: int, pool: Any) -> None:
    """Lets all have the GPU memory of a CUDA graph whose recording failed.

    ``torch._C._cuda_endAllocateToPool`` and ``_cuda_releasePool``, in all versions for CUDA. Before
    PyTorch 2.12, where a capture that became invalid cannot end, the allocator goes on as if it
    were under way: it keeps the graph's memory, and gives back no cached memory that another size
    needs (pytorch/pytorch #180395). Later versions end it, and some keep the memory (#190348).

    Args:
        device: index of the GPU.
        pool: pool of the graph's memory, of ``torch.cuda.graph_pool_handle``.
    """
    try:
        torch._C._cuda_endAllocateToPool(device, pool)
    except RuntimeError:  # it has ended
        return
    torch._C._cuda_releasePool(device, pool)


def compile_backward_ahead() -> bool:
    """Makes the compiler compile a backward pass before its forward pass runs, if it can.

    ``torch._functorch.config.force_non_lazy_backward_lowering``, from PyTorch 2.10 on. Where it is
    missing, a backward pass that fails to compile ends the run, instead of leaving it uncompiled.

    Returns:
        True if this PyTorch can.
    """
    import torch._functorch.config as config

    if not hasattr(config, "force_non_lazy_backward_lowering"):
        return False
    config.force_non_lazy_backward_lowering = True
    return True


def allow_many_compilations() -> None:
    """Lets the compiler compile a function for as many kinds of inputs as there are.

    ``torch._dynamo.config.recompile_limit`` and ``accumulated_recompile_limit``, in all versions.
    They are 8 and 256; above them a function that must not break into several graphs is an error
    (:func:`is_compile_error`).
    """
    import torch._dynamo.config as config

    config.recompile_limit = config.accumulated_recompile_limit = 4096


def keep_masks(kept: bool) -> None:
    """Decides whether compiled code may keep a bool for each number that a ReLU saw.

    ``torch._functorch.config.ban_recompute_materialized_backward``, in all versions; where it is
    missing, they are kept. Code that does not keep them computes activations again in the backward
    pass: this takes less memory, and on CPUs less time, as their compiled code writes bools forty
    times as slowly as floats.

    Args:
        kept: True, the compiler's default, for GPUs.
    """
    import torch._functorch.config as config

    if hasattr(config, "ban_recompute_materialized_backward"):
        config.ban_recompute_materialized_backward = kept


def is_compile_error(error: Exception) -> bool:
    """True if compiling failed, rather than the compiled function.

    ``torch._dynamo.exc.TorchDynamoException`` and ``FailOnRecompileLimitHit``, in all versions. The
    import takes seconds, so it is here and not at the top of the file.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return isinstance(error, TorchDynamoException | FailOnRecompileLimitHit)


def keep_own_buffers() -> dict[str, bool]:
    """Options of DistributedDataParallel by which every rank keeps its own running statistics.

    ``forward_sync_buffers``, from PyTorch 2.13 on; before it ``broadcast_buffers``, which newer
    versions deprecate.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return {name: False}


def abort_collectives() -> None:
    """Ends the collectives that NCCL still waits for, and the process groups with them.

    ``torch.distributed.distributed_c10d._abort_process_group``, in all versions. Where it is
    missing, NCCL's watchdog aborts a process that has lost another while it exits: its exit code
    is that of SIGABRT, behind pages of native stack traces.
    """
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    if abort is not None and dist.is_initialized():
        with contextlib.suppress(Exception):  # the process leaves by another error
            abort()


def run_agent(arguments: list[str]) -> None:
    """Runs torchrun's agent in this process, until all that it started have ended.

    ``torch.distributed.run.parse_args`` and ``run``, in all versions: not private, but not
    documented either.

    Args:
        arguments: command line of torchrun.

    Raises:
        ChildFailedError: a process failed, of ``torch.distributed.elastic.multiprocessing.errors``.
        SignalException: the agent received a signal, of ``torch.distributed.elastic``.
    """
    from torch.distributed.run import parse_args, run

    run(parse_args(arguments))
