"""How a process finds those that it works together with, and how it leaves them."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator

import torch
import torch.distributed as dist

from .agent_watch import watch_agent
from .interface import choose_interface
from .ranks import ONE_PROCESS, PATIENCE, Ranks
from .rendezvous import fresh_store

logger = logging.getLogger(__name__)

_GLOO = r"\[\S*[/\\]gloo[/\\]\S*\]|Gloo "  # begins an error of gloo


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Joins the processes that torchrun started with this one; else :data:`ONE_PROCESS`.

    Within it every rank but rank 0 logs nothing below warnings. A rank that loses the others, when
    one has ended or the network is cut, says so in one line and leaves by SystemExit.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1 or not dist.is_torchelastic_launched():
        yield ONE_PROCESS
        return
    choose_interface()
    try:
        with _losses_told():
            agents_store, rank, _ = next(dist.rendezvous("env://"))
            store = fresh_store(agents_store, rank, world_size, PATIENCE)
            ends = {"rank": rank, "world_size": world_size, "timeout": PATIENCE}
            dist.init_process_group("gloo", store=store, **ends)
            ranks = Ranks(rank, world_size, int(os.environ["LOCAL_RANK"]))
            if not ranks.is_main:
                logging.getLogger().setLevel(logging.WARNING)
            yield ranks
    except BaseException:
        _abandon()
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def _losses_told() -> Iterator[None]:
    """Makes one line and SystemExit of the error of a collective that lost other processes."""
    try:
        yield
    except RuntimeError as error:
        if not _of_the_network(error):
            raise
        logger.error(
            "error: rank %s lost the other processes: %s. Which failed first says why (slow ones "
            "need more system.dist_timeout); train.py --resume goes on from the newest snapshot",
            os.environ["RANK"],
            re.sub(r"^\[.*?\] ", "", " ".join(str(error).split())).partition(". ")[0],
        )
        watch_agent()
        raise SystemExit(1) from None


def _abandon() -> None:
    """Ends what NCCL still waits for: a process that leaves by an error would wait with it."""
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)
    if abort is not None and torch.cuda.is_initialized() and dist.is_initialized():
        with contextlib.suppress(Exception):  # gloo has nothing to abort
            abort()


def _of_the_network(error: RuntimeError) -> bool:
    """Whether a collective failed because of other processes.

    Gloo's errors are plain ones that begin with their place in its source.
    """
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and re.match(_GLOO, str(error)) is not None
