"""Where processes that were started together find one another's addresses, and no older ones.

The store of torchrun's agents outlives the processes: what was started again (``--max-restarts``)
would find the addresses of those that died, and try to connect to them.
"""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

_PAUSE = 0.05  # seconds between two looks


def fresh_store(store: dist.Store, rank: int, world_size: int, patience: timedelta) -> dist.Store:
    """A part of a store that the processes of this start alone write to.

    Rank 0 gives it a name that never was before, and says whom it met under that name: who finds
    itself left out has read the name of an earlier start, and waits for a newer one.

    Args:
        store: of the agents; every rank has opened it.
        rank: of this process.
        world_size: number of processes.
        patience: how long to wait for the others.

    Raises:
        RuntimeError: not all of them came.
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
    raise dist.DistStoreError(f"rank 0 did not come within {patience}")
