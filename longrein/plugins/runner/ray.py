"""Maps on a Ray cluster: each task may run on any node, and again when its worker or node dies."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import ray

from longrein.core.errors import Error

VERSION = 1
AHEAD = 2  # tasks a CPU of the cluster that are under way


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `compute: {runner: {ray: …}}`. Nodes need longrein, and the sources at the same path."""

    address: str = "auto"  # of the cluster: host:port, ray://host:port; auto is the one this machine belongs to
    cpus: float = 1.0  # a task's
    retries: int = 5  # of a task whose worker or node died


class Ray:
    """Inputs and results travel through Ray's object store; the source files do not."""

    shared = False

    def __init__(self, options: Mapping[str, Any], workers: int) -> None:
        self.options = msgspec.convert(options, Options)
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                ray.init(
                    self.options.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False
                )
            except ConnectionError as error:
                hint = "start one (`ray start --head`), or name it: runner: {ray: {address: ray://head:10001}}"
                raise Error("unavailable", f"no Ray cluster answers at {self.options.address!r}", hint) from error

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        run = ray.remote(function).options(num_cpus=self.options.cpus, max_retries=self.options.retries)
        stream, waiting = iter(tasks), deque[Any]()
        while True:
            room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1) / self.options.cpus))
            while len(waiting) < room and (task := next(stream, waiting)) is not waiting:
                waiting.append(run.remote(task))
            if not waiting:
                return
            yield _value(waiting.popleft())

    def close(self) -> None:
        if self._mine and ray.is_initialized():
            ray.shutdown()


def _value(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # what the function raised
    except (ray.exceptions.RayError, OSError) as error:
        raise Error("failed", f"Ray could not run a task: {error}", "look at the cluster: ray status") from error


plugin = Ray
