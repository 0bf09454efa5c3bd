"""What each dask worker uses of its machine: a device, which the worker itself resolves, and a number of threads."""

import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import torch
from distributed import Client
from distributed.comm.addressing import get_address_host
from distributed.comm.core import CommClosedError

from cache.errors import StoreError
from pipeline.errors import PipelineError, first_line
from pipeline.runtime.device import gpu_record, resolve_device


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a worker finds where it runs.

    device: what it would use alone. gpus: how many it can use. visible: CUDA_VISIBLE_DEVICES. model: the GPU's, or
    "CPU". cores: the numbers of those it may use.
    """

    device: torch.device
    gpus: int
    visible: str | None
    model: str
    cores: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a worker uses. rank: its number among the workers that see the same GPUs."""

    device: torch.device
    threads: int
    rank: int


def inspect_machine(device: str) -> Machine:
    """Resolve a device's name in this process. Raises WrongUse for CUDA without a GPU."""
    resolved = resolve_device(device)
    return Machine(
        device=resolved,
        gpus=0 if resolved.type == "cpu" else torch.cuda.device_count(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        model=gpu_record(resolved).get("gpu", "CPU"),
        cores=frozenset(os.sched_getaffinity(0)),
    )


class Workers:
    """The workers of a cluster that can compute, and the share of each in its machine.

    Workers of one machine that see the same GPUs take them in turn, in the order of their addresses, and share them
    if there are more workers. So a GPU that the cluster assigned to one worker alone is that worker's. A worker that
    comes later takes the first place that is free. Cores are divided by the most workers seen on them at once.
    """

    def __init__(self, client: Client, device: str, threads: int | None) -> None:
        self.client, self.device, self.threads = client, device, threads
        self.alive: frozenset[str] = frozenset()
        self.machines: dict[str, Machine] = {}
        self.shares: dict[str, Share] = {}
        self.unusable: dict[str, Exception] = {}
        self.crowds = Counter[tuple[str, frozenset[int]]]()

    def refresh(self) -> bool:
        """Ask for the workers that are alive, and inspect new ones. Returns whether there are new ones.

        Raises PipelineError if the scheduler is gone, or none of its workers can compute.
        """
        try:
            self.alive = frozenset(self.client.nthreads())
        except OSError as error:
            raise PipelineError(
                f"the dask scheduler does not answer any more ({error}); once it is back, the same command computes "
                "only what is absent"
            ) from error
        for known in (self.machines, self.shares, self.unusable):
            for address in known.keys() - self.alive:
                del known[address]
        new = sorted(self.alive - self.machines.keys() - self.unusable.keys())
        if new:
            self.add(self.client.run(inspect_machine, self.device, workers=new, on_error="return"))
        if self.alive and self.alive == self.unusable.keys():
            address, problem = min(self.unusable.items())
            raise PipelineError(f"no dask worker can compute; {address}: {reason_of(problem)}")
        return any(address in self.machines for address in new)

    def add(self, found: Mapping[str, Machine | Exception]) -> None:
        """Give each new worker its share, and name those that cannot compute."""
        for address, machine in sorted(found.items()):
            if isinstance(machine, Machine):
                self.machines[address] = machine
            elif not isinstance(machine, CommClosedError | TimeoutError):  # died, or asked again later
                self.unusable[address] = machine
                print(
                    f"warning: the worker {address} is not used: {reason_of(machine)}",
                    file=sys.stderr,
                )
        self.crowds |= Counter(self._cores_of(address) for address in self.machines)  # the larger counts
        for address in sorted(self.machines.keys() - self.shares.keys()):
            self.shares[address] = self._share_of(address)

    def _share_of(self, address: str) -> Share:
        machine = self.machines[address]
        taken = {
            share.rank
            for other, share in self.shares.items()
            if self._gpus_of(other) == self._gpus_of(address)
        }
        rank = next(number for number in count() if number not in taken)
        device = torch.device(machine.device.type, rank % machine.gpus) if machine.gpus else machine.device
        threads = self.threads or max(1, len(machine.cores) // self.crowds[self._cores_of(address)])
        return Share(device=device, threads=threads, rank=rank)

    def _gpus_of(self, address: str) -> tuple[str, str | None]:
        return get_address_host(address), self.machines[address].visible

    def _cores_of(self, address: str) -> tuple[str, frozenset[int]]:
        return get_address_host(address), self.machines[address].cores

    def __str__(self) -> str:
        """Return what computes, such as "2 workers: 2 x NVIDIA H100 with 16 threads"."""
        kinds = Counter(
            f"{self.machines[address].model} with {share.threads} thread{'s'[: share.threads > 1]}"
            for address, share in self.shares.items()
        )
        total = len(self.shares)
        named = ", ".join(f"{number} x {kind}" for kind, number in sorted(kinds.items()))
        return f"{total} worker{'s'[: total > 1]}: {named}"


def reason_of(error: BaseException) -> str:
    """Return a worker's error in one line."""
    text = first_line(error)
    if isinstance(error, ImportError):
        return f"{text}: start it with this project's folder in PYTHONPATH"
    return text if isinstance(error, StoreError | PipelineError) else f"{type(error).__name__}: {text}"
