"""Which network interface leads to the other machines."""

import os
import socket

import pytest

from core.distributed import interface
from core.distributed.interface import choose_interface, interface_to

VARIABLE = "GLOO_SOCKET_IFNAME"


def test_a_loopback_and_an_unknown_host_have_none():
    assert interface_to("127.0.0.1") is None
    assert interface_to("localhost") is None
    assert interface_to("host.invalid") is None


def test_the_way_out_is_an_interface_of_this_machine():
    name = interface_to("192.0.2.1")
    if name is None:
        pytest.skip("this machine has no network, or another system than Linux")
    assert name in [known for _, known in socket.if_nameindex()]


@pytest.mark.parametrize(
    ("address", "machines", "known", "chosen"),
    [
        ("10.0.0.1", 2, {"10.0.0.1": "eth1", "192.0.2.1": "eth0"}, "eth1"),
        ("rank-0", 2, {"192.0.2.1": "eth0"}, "eth0"),  # its own name, which is a loopback there
        ("rank-0", 2, {}, None),
        ("127.0.0.1", 2, {"192.0.2.1": "eth0"}, None),
        ("10.0.0.1", 1, {"10.0.0.1": "eth1"}, None),
    ],
)
def test_gloo_is_told_the_way_to_rank_0(monkeypatch, address, machines, known, chosen):
    monkeypatch.setattr(interface, "interface_to", known.get)
    given = {"MASTER_ADDR": address, "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": str(4 // machines)}
    monkeypatch.setattr(os, "environ", dict(given))
    choose_interface()
    assert os.environ.get(VARIABLE) == chosen


def test_the_users_choice_stays(monkeypatch):
    given = {"MASTER_ADDR": "10.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    monkeypatch.setattr(interface, "interface_to", lambda host: "eth1")
    monkeypatch.setattr(os, "environ", {**given, VARIABLE: "ib0"})
    choose_interface()
    assert os.environ[VARIABLE] == "ib0"
