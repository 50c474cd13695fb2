"""The network interface between machines, for gloo, which would take that of the host's own name.

On many machines that name has a loopback address, and each process would wait there for the others.
"""

import contextlib
import os
import socket
import struct
import sys

_VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # gives the IPv4 address of an interface
_LOOPBACK = "127."
_ANYWHERE = "192.0.2.1"  # an address of no machine


def choose_interface() -> None:
    """Tells gloo the interface that leads to the machine of rank 0, before a process group exists.

    Leaves the choice to gloo where the user made one, where there is one machine only, and where
    the interface cannot be told: without IPv4, or on other systems than Linux.
    """
    address = os.environ["MASTER_ADDR"]
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if one_machine or address.startswith(_LOOPBACK) or _VARIABLE in os.environ:
        return
    name = interface_to(address) or interface_to(_ANYWHERE)  # rank 0's own name may be a loopback
    if name is not None:
        os.environ[_VARIABLE] = name


def interface_to(host: str) -> str | None:
    """Name of the interface by which a host is reached; None if it cannot be told, or a loopback.

    Args:
        host: its name or address; nothing is sent there.
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
