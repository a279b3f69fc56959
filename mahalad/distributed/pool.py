"""The pool of processes that hold a network: how many there are, and what each of them takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mahalad.errors import ClusterError, InputError

MOST_RESTARTS = 8
"""Times that a process which is lost is started again, and that its work is done again."""


@dataclass(frozen=True)
class Pool:
    """Processes that read images, each with a network of its own.

    Attributes
    ----------
    n_workers : int or None, default=None
        Number of processes. None: one for each GPU if they use any, else as many as leave one of
        the cluster's CPUs free.
    cpus : float, default=1
        CPUs that each takes; its network uses as many threads. Features of other numbers of threads
        differ in the last digits of float32.
    gpus : float or None, default=None
        GPUs that each takes; a share, for several on one. None: 1 where the cluster has any and
        the device is not the CPU, else 0.
    """

    n_workers: int | None = None
    cpus: float = 1
    gpus: float | None = None

    @property
    def n_threads(self) -> int:
        """Threads of a worker's network."""
        return max(1, int(self.cpus))

    def sized(
        self, resources: Mapping[str, float], device: str = "auto", *, reads: bool = False
    ) -> Pool:
        """Give the pool for a cluster that has some resources, with all numbers filled in.

        Parameters
        ----------
        resources : mapping of str to float
            As `ray.cluster_resources()` gives them.
        device : str
            Device that the network was asked to be on.
        reads : bool, default=False
            Whether what feeds the pool takes CPUs itself, as a Ray dataset that reads files does.

        Raises
        ------
        InputError
            No worker, a pool that takes every CPU, or, where it is fed by what takes a whole CPU,
            workers with less, which may leave none whole.
        ClusterError
            A GPU is asked for, and the cluster has none, or too few CPUs.
        """
        if not self.cpus > 0 or (self.n_workers is not None and self.n_workers < 1):
            raise InputError(
                f"a pool of {self.n_workers} workers with {self.cpus} CPUs each: give at least one "
                "worker, and more than 0 CPUs"
            )
        if reads and self.cpus < 1:
            raise InputError(
                f"workers with {self.cpus:g} CPUs may leave no machine a whole one, which a Ray "
                "dataset needs to read (ray-project/ray#44687): give each at least 1, or a data "
                "set of paths"
            )
        n_cpus, n_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        gpus = self.gpus
        if gpus is None:
            gpus = 1.0 if n_gpus and not device.startswith("cpu") else 0.0
        if device.startswith("cuda") and not gpus:
            raise ClusterError(f"device={device!r} is asked for, and the cluster has no GPU")
        if gpus > n_gpus:
            raise ClusterError(
                f"each worker is to have {gpus:g} GPUs, and the cluster has {n_gpus:g}"
            )
        most = _most_below(n_cpus, self.cpus)
        if most < 1:
            raise ClusterError(
                f"the cluster has {n_cpus:g} CPUs: a worker with {self.cpus:g} of them would take "
                "all, and one that is free must stay for what feeds it (a pool that takes every "
                "CPU hangs, ray-project/ray#44687): start a node with more, or give fewer CPUs "
                "to each worker"
            )
        wanted = self.n_workers
        if wanted is None:
            wanted = min(most, int(n_gpus / gpus)) if gpus else most
        if wanted > most:
            raise InputError(
                f"{wanted} workers with {self.cpus:g} CPUs each would take every one of the "
                f"cluster's {n_cpus:g} CPUs, and what feeds them would wait for ever "
                f"(ray-project/ray#44687): ask for {most} at most"
            )
        if gpus and wanted * gpus > n_gpus:
            raise InputError(
                f"{wanted} workers with {gpus:g} GPUs each: the cluster has {n_gpus:g}; ask for "
                f"{int(n_gpus / gpus)} at most"
            )
        return Pool(wanted, self.cpus, gpus)

    def options(self, ray: Any) -> dict[str, Any]:
        """Give the options of `Dataset.map_batches` for a pool that is `sized`."""
        strategy = ray.data.ActorPoolStrategy(size=self.n_workers)
        found: dict[str, Any] = {"compute": strategy, "num_cpus": self.cpus}
        if _takes_any(ray.data.Dataset.map_batches):
            found |= {"max_restarts": MOST_RESTARTS, "max_task_retries": MOST_RESTARTS}
        return found | ({"num_gpus": self.gpus} if self.gpus else {})


def _takes_any(function: Any) -> bool:
    """Whether a function takes arguments by any name: the version of Ray can bound restarts."""
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _most_below(total: float, each: float) -> int:
    """Most workers that leave a whole CPU free; of less than a CPU each, that leave anything."""
    left = 1.0 if each >= 1 else 1e-9
    return int((total - left) / each + 1e-9)
