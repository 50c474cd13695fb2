"""Starting the processes that train together with torchrun.

``--distributed`` starts one for every GPU, as the reference does. Where there is none,
``system.cpu_processes`` says how many, and no argument is needed: on few cores, several processes
of one thread can be faster than one process of several.
"""

import argparse
import logging
import os

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..config.errors import UserError
from ..torch_compat import run_agent

logger = logging.getLogger(__name__)


def add_distributed_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the reference's arguments."""
    group = parser.add_argument_group(
        "several devices", "a process each; torchrun does the same, and more"
    )
    group.add_argument("--distributed", action="store_true", help="start one for every device here")
    group.add_argument(
        "--world-size", type=int, default=1, metavar="M", help="machines; each runs this command"
    )
    group.add_argument("--rank", type=int, default=0, metavar="R", help="number of this machine")
    group.add_argument("--dist-url", metavar="tcp://HOST:PORT", help="of machine 0, a free port")
    group.add_argument(
        "--dist-backend", choices=("nccl", "gloo"), help="nccl between GPUs, gloo between CPUs"
    )


def is_launcher(options: argparse.Namespace, cpu_processes: int = 1) -> bool:
    """True if this process must start those that train; false in those that it started.

    Args:
        options: parsed arguments of :func:`add_distributed_arguments`, and ``device``.
        cpu_processes: ``system.cpu_processes``.
    """
    if dist.is_torchelastic_launched():
        return False
    return bool(options.distributed) or (cpu_processes > 1 and _on_cpu(options))


def launch(options: argparse.Namespace, command: list[str], cpu_processes: int = 1) -> int:
    """Starts a command for every device of this machine and waits until all have ended.

    Args:
        options: parsed arguments of :func:`add_distributed_arguments`, and ``device``.
        command: a Python file, or ``--module`` and a module's name; and its arguments.
        cpu_processes: ``system.cpu_processes``, the number of processes where there is no GPU. They
            divide the threads of this one.

    Returns:
        Exit code of the process that failed first, 1 after a signal; else 0.

    Raises:
        UserError: the arguments do not say at which address the machines meet.
    """
    on_cpu = _on_cpu(options)
    devices = torch.cuda.device_count() if options.device in (None, "cuda") else 1
    processes = cpu_processes if on_cpu else max(1, devices)
    threads = str(max(1, torch.get_num_threads() // processes))
    if on_cpu:
        os.environ["OMP_NUM_THREADS"] = threads  # the number that was set is that of all together
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    where = _meeting_place(options)
    try:
        run_agent([f"--nproc-per-node={processes}", *where, *command])
    except ChildFailedError as failed:
        _, failure = failed.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException:
        return 1
    return 0


def _on_cpu(options: argparse.Namespace) -> bool:
    """True if the arguments choose the CPU, as :func:`core.models.device.choose_device` does."""
    if options.device is None:
        return not torch.cuda.is_available()
    return str(options.device) == "cpu"


def _meeting_place(options: argparse.Namespace) -> list[str]:
    """Returns torchrun's arguments for the number of machines, and where they meet."""
    if options.world_size < 1:
        raise UserError(f"--world-size {options.world_size}: at least one machine is needed")
    if options.world_size == 1:
        return ["--standalone"]
    scheme, _, address = (options.dist_url or "").partition("://")
    host, _, port = address.rpartition(":")
    if scheme != "tcp" or not host or not port.isdecimal():
        raise UserError(
            f"--dist-url {options.dist_url}: {options.world_size} machines meet at "
            "tcp://HOST:PORT, the address of machine 0 and a free port"
        )
    if not 0 <= options.rank < options.world_size:
        raise UserError(
            f"--rank {options.rank}: of {options.world_size} machines (--world-size), the first "
            f"is 0 and the last {options.world_size - 1}"
        )
    machines = [f"--nnodes={options.world_size}", f"--node-rank={options.rank}"]
    return [*machines, f"--master-addr={host}", f"--master-port={port}"]
