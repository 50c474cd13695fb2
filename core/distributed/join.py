"""Joining the other processes: their network, their addresses, and an error if they are lost.

torchrun's agents give each process its rank and the address of a store. This file chooses the
network interface that leads to other machines, opens a part of the store that processes of an
earlier start did not write to, and turns the loss of other processes into a one-line error.
"""

import contextlib
import logging
import os
import re
import socket
import struct
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from ..torch_compat import abort_collectives
from .agent_watch import watch_agent
from .ranks import ONE_PROCESS, PATIENCE, Ranks

logger = logging.getLogger(__name__)

_GLOO_ERROR = r"\[\S*[/\\]gloo[/\\]\S*\]|Gloo "  # beginning of an error of gloo
_GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # gives the IPv4 address of an interface
_LOOPBACK = "127."
_ANYWHERE = "192.0.2.1"  # an address of no machine
_PAUSE = 0.05  # seconds between two checks of a store


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Joins the processes that torchrun started with this one; else yields :data:`ONE_PROCESS`.

    Within the context all ranks but rank 0 log nothing below warnings. A rank that loses the
    others, because one has ended or the network is cut, logs one line and raises SystemExit.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1 or not dist.is_torchelastic_launched():
        yield ONE_PROCESS
        return
    choose_interface()
    try:
        with _one_line_for_a_loss():
            agents_store, rank, _ = next(dist.rendezvous("env://"))
            store = store_of_this_start(agents_store, rank, world_size, PATIENCE)
            ends = {"rank": rank, "world_size": world_size, "timeout": PATIENCE}
            dist.init_process_group("gloo", store=store, **ends)
            ranks = Ranks(rank, world_size, int(os.environ["LOCAL_RANK"]))
            if not ranks.is_main:
                logging.getLogger().setLevel(logging.WARNING)
            yield ranks
    except BaseException:
        if torch.cuda.is_initialized():
            abort_collectives()  # or NCCL's watchdog aborts this process while it exits
        raise
    dist.destroy_process_group()


def choose_interface() -> None:
    """Sets gloo's interface to the one that leads to rank 0, before a process group exists.

    Gloo would take the interface of the host's own name. On many machines that name has a loopback
    address, and each process would wait there for the others. Nothing is set if the user set it, if
    there is only one machine, or if the interface cannot be found: without IPv4, or on systems
    other than Linux.
    """
    address = os.environ["MASTER_ADDR"]
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if one_machine or address.startswith(_LOOPBACK) or _GLOO_INTERFACE in os.environ:
        return
    name = interface_to(address) or interface_to(_ANYWHERE)  # rank 0's own name may be a loopback
    if name is not None:
        os.environ[_GLOO_INTERFACE] = name


def interface_to(host: str) -> str | None:
    """Finds the interface that leads to a host; None for a loopback, or if it finds none.

    Args:
        host: name or address; nothing is sent there.
    """
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return None
        address = probe.getsockname()[0]
        if address.startswith(_LOOPBACK):
            return None
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            with contextlib.suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def store_of_this_start(
    store: dist.Store, rank: int, world_size: int, patience: timedelta
) -> dist.Store:
    """Opens a part of a store that only the processes of this start write to.

    The store of torchrun's agents outlives the processes: processes that are started again
    (``--max-restarts``) would find the addresses of those that died, and try to connect to them.
    Rank 0 gives the part a new name, and lists the processes that joined under that name: a rank
    that is not in the list has read the name of an earlier start, and waits for a newer one.

    Args:
        store: the agents' store, opened by every rank.
        rank: number of this process.
        world_size: number of processes.
        patience: time to wait for the others.

    Raises:
        RuntimeError: not all of them joined in time.
    """
    store.set_timeout(patience)
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("start", own)
        others = [store.get(f"{own}/{other}").decode() for other in range(1, world_size)]
        store.set(f"{own}/met", " ".join(others))
        return dist.PrefixStore(own, store)
    limit = time.monotonic() + patience.total_seconds()
    name = ""
    while time.monotonic() < limit:
        newest = store.get("start").decode()
        if newest != name:
            name = newest
            store.set(f"{name}/{rank}", own)
        if store.check([f"{name}/met"]) and own in store.get(f"{name}/met").decode():
            return dist.PrefixStore(name, store)
        time.sleep(_PAUSE)
    raise dist.DistStoreError(f"rank 0 did not join within {patience}")


@contextlib.contextmanager
def _one_line_for_a_loss() -> Iterator[None]:
    """Turns the error of a collective that lost the others into one line and SystemExit."""
    try:
        yield
    except RuntimeError as error:
        if not is_network_error(error):
            raise
        logger.error(
            "error: rank %s lost the other processes: %s. Which failed first says why (slow ones "
            "need more system.dist_timeout); train.py --resume starts from the newest snapshot",
            os.environ["RANK"],
            re.sub(r"^\[.*?\] ", "", " ".join(str(error).split())).partition(". ")[0],
        )
        watch_agent()
        raise SystemExit(1) from None


def is_network_error(error: RuntimeError) -> bool:
    """True if a collective failed because of other processes.

    Gloo's errors are plain RuntimeErrors that begin with their place in its source.
    """
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and re.match(_GLOO_ERROR, str(error)) is not None
