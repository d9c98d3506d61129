"""Which network interface the ranks of a node use."""

from __future__ import annotations

from types import SimpleNamespace

import psutil

from hybrid_ir.training.ray_train.process_group import interface_of


def test_the_interface_is_the_one_with_the_nodes_address():
    interfaces = {
        "lo": [SimpleNamespace(address="127.0.0.1"), SimpleNamespace(address="::1")],
        "eth0": [SimpleNamespace(address="02:42:ac:11:00:02"), SimpleNamespace(address="10.0.0.7")],
    }
    assert interface_of("10.0.0.7", interfaces) == "eth0"
    assert interface_of("127.0.0.1", interfaces) == "lo"
    assert interface_of("10.0.0.8", interfaces) is None


def test_this_machine_has_a_loopback():
    assert interface_of("127.0.0.1", psutil.net_if_addrs())
