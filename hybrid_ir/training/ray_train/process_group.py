"""Where the ranks of a training meet. In: the address by which Ray knows a node. Out: gloo, told that interface."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class NodeTorchConfig(TorchConfig):
    """Ray's, with the interface of each node named."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _NodeTorchBackend


class _NodeTorchBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_name_interface)
        super().on_start(worker_group, backend_config)


def interface_of(address: str, interfaces: Mapping[str, Sequence[Any]]) -> str | None:
    """Name of the network interface that has `address`, of those that psutil.net_if_addrs() tells."""
    return next((name for name, found in interfaces.items() if any(x.address == address for x in found)), None)


def _name_interface() -> None:
    # Gloo's own choice is the address of the host's name. Where that is a loopback's (as in Debian's /etc/hosts), ranks
    # on two nodes look for each other in vain.
    name = interface_of(ray.util.get_node_ip_address(), psutil.net_if_addrs())
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
