"""A session of Ray: reached or started, with the same versions on all its nodes."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import socket
from collections.abc import Mapping
from typing import Any

from mahalad.errors import ClusterError, MissingExtraError
from mahalad.files.container import VERSIONED

_TIMEOUT = 10.0  # seconds that an address may take to answer
_PATIENCE = 120.0  # seconds that a node may take to say its versions
_SAME: set[str] = set()  # nodes that are known to have the versions of this process


def connect(address: str | None = None) -> Any:
    """Give the module `ray`, in a session.

    Parameters
    ----------
    address : str or None
        ``host:port`` of a cluster that this machine is part of; ``"auto"`` for the one that runs
        here; ``"local"`` for one that is started on this machine. None for that of the environment
        variable ``RAY_ADDRESS``, else for the one that runs here, else for one that is started. A
        session that there is already goes before all of these.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    ClusterError
        The cluster cannot be reached, or is of other versions of Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            'many machines need Ray: pip install "mahalad[ray]", on each of them'
        ) from error
    if not ray.is_initialized():
        _check_address(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of another kind for each reason
            where = "on this machine" if address is None else f"at {address}"
            raise ClusterError(f"no Ray {where}: {error}") from error
    check_versions(ray)
    return ray


def check_versions(ray: Any) -> None:
    """Refuse a cluster whose nodes have other versions than this process has.

    Raises
    ------
    ClusterError
        It says which node has which.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=2)(versions)
    new = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in _SAME]
    asked = {
        node["NodeManagerAddress"] + f" ({node['NodeID'][:8]})": ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in new
    }
    found: dict[str, Mapping[str, str]] = {}
    for node, answer in asked.items():
        try:
            found[node] = ray.get(answer, timeout=_PATIENCE)
        except (
            ray.exceptions.TaskUnschedulableError,
            ray.exceptions.WorkerCrashedError,
        ):
            continue  # the node was lost a moment ago: it will read nothing
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ClusterError(
                f"node {node}: mahalad cannot be used there: {reason[-1]}: pip install "
                '"mahalad[ray]" on each node, of one version'
            ) from error
    text = differences(versions(), found)
    if text:
        raise ClusterError(
            f"other versions on other machines would give other scores: {text}: install the same "
            "on each"
        )
    _SAME.update(node["NodeID"] for node in new)


def versions() -> dict[str, str]:
    """Give the versions that must agree, by name."""
    names = ("mahalad", "ray", *VERSIONED)
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: importlib.metadata.version(name) for name in names}}


def differences(mine: Mapping[str, str], found: Mapping[str, Mapping[str, str]]) -> str:
    """Say which nodes have what in other versions; an empty text if none has.

    Examples
    --------
    >>> differences({"python": "3.12"}, {"10.0.0.2": {"python": "3.11"}})
    'node 10.0.0.2 has python 3.11, and here is 3.12'
    """
    return "; ".join(
        f"node {node} has {name} {theirs.get(name)}, and here is {version}"
        for node, theirs in found.items()
        for name, version in mine.items()
        if theirs.get(name) != version
    )


def _check_address(address: str | None) -> None:
    """Refuse an address where nothing listens, for which Ray itself waits long, or of a proxy."""
    if (address or "").startswith("ray://"):
        raise ClusterError(
            f"{address}: work on a machine of the cluster, and give host:port or auto: Ray Data "
            "does not work through a client"
        )
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray at {address}: {error.strerror or error}: start it there with "
            f"`ray start --head --port {port}`, or give another address"
        ) from error
