# Copyright (c) MONAI Consortium
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The shards of an audit as tasks of a Ray cluster, which runs those of a dead machine again on another one."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from monai.bundle import ConfigParser

from .auditing.audit import Audit
from .bundle.arguments import running_parser
from .bundle.errors import causes, debugging, expected_cause, first_line, run_or_exit, sentence
from .bundle.shares import Share
from .detect import SHARED_STEPS, AuditData, shared_steps
from .report.report import Report

__all__ = ["shards_on_ray"]

ANSWER = 10.0  # seconds in which a cluster's port must answer; Ray itself gives up after minutes
STORE = 100_000_000  # bytes of memory that machines share; the tasks hand each other nothing
LOOKS = 3  # times that a step's shards are run where nothing of them is seen in the output folder
LAG = 2.0  # seconds before a further look: network file systems show new files late

logger = logging.getLogger(__name__)


def shards_on_ray(
    data: AuditData,
    audit: Audit,
    report: Report,
    shards: int,
    address: str = "local",
    num_cpus: float = 1,
    num_gpus: float = 0,
    retries: int = 3,
) -> None:
    """Run the shards of the audit that the calling config describes, as tasks of Ray; then nothing is left to compute.

    A task evaluates the whole config, as it stands after all overlays and flags, with `shard` set. So the config's key
    `run` must call this where `shard` is null, and :func:`~scripts.detect.detect` after it. Python's search path and
    the working directory are the caller's. A shard whose step is noted as done in the output folder is not run.

    Args:
        data, audit, report: of the config.
        shards: pieces of each step's work.
        address: `local` starts Ray on this machine; `auto`, HOST:PORT or ray://HOST:PORT is a running cluster.
        num_cpus, num_gpus: that Ray reserves for a task; threads are as many as CPUs.
        retries: how often a shard is run again whose process or machine died, or met an error of the file system.

    Raises:
        SystemExit: with one sentence, where a command started the process: Ray is not installed, nothing answers at
            the address, a shard failed, or the output folder is not seen by all.
        ValueError: with that sentence, elsewhere.
    """
    config = dict(running_parser().get())
    options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "retries": retries}
    run_or_exit(_run, config, data, audit, report, shards, address, options)


def _run(
    config: Mapping[str, object],
    data: AuditData,
    audit: Audit,
    report: Report,
    shards: int,
    address: str,
    options: Mapping[str, Any],
) -> None:
    _check(shards, address, options)
    audit.check_share()
    steps = shared_steps(data.items(), report.output_dir, Share(1, shards))
    if not any(steps.missing(step) for step in SHARED_STEPS):
        return
    with _connected(address, options) as ray:
        task = _task(ray, config, options)
        for step in SHARED_STEPS:
            for look in range(LOOKS + 1):
                if look:
                    time.sleep(LAG)
                if not (left := steps.missing(step)):
                    break
                if look == LOOKS:
                    raise ValueError(
                        f"{report.output_dir}: expected a folder that all machines of the cluster see, found nothing "
                        f"of {len(left)} shards that were run; choose an output_dir on a shared file system"
                    )
                _do(ray, task, left, step, int(options["retries"]))


def _check(shards: int, address: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for a number that cannot be, before Ray is started."""
    whole = {"shards": (shards, 1), "retries": (options["retries"], 0)}
    for name, (value, least) in whole.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}: expected a whole number from {least} on, found {value!r}")
    for name in ("num_cpus", "num_gpus"):
        value = options[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ValueError(f"{name}: expected a number from 0 on, found {value!r}")
    if not isinstance(address, str) or not address:
        raise ValueError(f"address: expected local, auto or HOST:PORT, found {address!r}")


@contextmanager
def _connected(address: str, options: Mapping[str, Any]) -> Iterator[ModuleType]:
    """Yield the module ray, connected; a connection that the calling program made is used, and left as it is."""
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "ray: expected the package ray, found none; pip install 'deepssim[ray]', or run the shards by hand"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # who audits tells nobody
    how: dict[str, Any] = {"log_to_driver": debugging(), "logging_level": logging.ERROR}
    if address == "local":
        how |= {"include_dashboard": False, "object_store_memory": STORE}
    try:
        if port := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:([0-9]+)", address):
            socket.create_connection((port[1], int(port[2])), ANSWER).close()
        ray.init(address=address, **how)
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(
            f"address: expected local or a running Ray cluster, found none at {address} ({first_line(error)}); start "
            "one by ray start --head, or name its HOST:PORT"
        ) from error
    try:
        _check_resources(ray, address, options)
        yield ray
    finally:
        ray.shutdown()


def _check_resources(ray: ModuleType, address: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError where no machine can ever run a task; of a cluster, which may grow, only say it."""
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    for name, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        most = max((machine.get(resource, 0) for machine in machines), default=0)
        if options[name] > most:
            said = f"{name}: expected at most {most:g}, which the largest machine has, found {options[name]:g}"
            if address == "local":
                raise ValueError(f"{said}; lower it")
            logger.warning("%s; no shard starts before such a machine joins the cluster", said)


def _task(ray: ModuleType, config: Mapping[str, object], options: Mapping[str, Any]) -> Any:
    """Return what starts a shard on the cluster, given its share."""
    threads = str(max(1, int(options["num_cpus"])))
    installed = tuple({os.path.realpath(prefix) + os.sep for prefix in (sys.prefix, sys.base_prefix)})
    own = [str(Path(__file__).resolve().parents[1]), *(os.path.abspath(path) for path in sys.path)]
    path = [folder for folder in dict.fromkeys(own) if not os.path.realpath(folder).startswith(installed)]
    env = {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    env |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "")}
    run = ray.remote(_run_shard).options(
        num_cpus=options["num_cpus"],
        num_gpus=options["num_gpus"],
        max_retries=options["retries"],
        retry_exceptions=[OSError],
        runtime_env={"env_vars": env},
    )
    stored = ray.put(dict(config))
    return lambda share: run.remote(stored, str(share), os.getcwd())


def _run_shard(config: Mapping[str, object], share: str, folder: str) -> None:
    """Be the process of a shard: evaluate the config's key `run`, in the folder of the command.

    Raises:
        OSError: where the file system said no, which another try may change.
        ValueError: for what a user's files and arguments cause.
    """
    os.chdir(folder)
    parser = ConfigParser({**config, "shard": share})
    try:
        parser.get_parsed_content("run")
    except Exception as error:  # MONAI wraps what an expression raised
        cause = expected_cause(error)
        if any(isinstance(one, OSError) for one in causes(error)):
            raise OSError(sentence(cause or error)) from None
        if cause is None or debugging():
            raise
        raise ValueError(sentence(cause)) from None


def _do(ray: ModuleType, task: Any, shares: Sequence[Share], step: str, retries: int) -> None:
    """Run shards until all of them have ended, and say of each that it has.

    Raises:
        ValueError: if one failed; the others are stopped.
    """
    running = {task(share): share for share in shares}
    while running:
        (ready,), _ = ray.wait(list(running), num_returns=1)
        share = running.pop(ready)
        try:
            ray.get(ready)
        except ray.exceptions.RayError as error:
            for other in running:
                ray.cancel(other, force=True)
            raise ValueError(_failed(share, error, retries)) from error
        logger.info("%s: shard %s is done, %d of %d", step, share, share.count - len(running), share.count)


def _failed(share: Share, error: Exception, retries: int) -> str:
    """Return what is to be said of a shard that failed: its own last sentence, or that its process died."""
    cause = getattr(error, "cause", None)
    again = "what is finished is kept, the same command goes on from there"
    if isinstance(cause, BaseException):
        return f"shard {share} failed: {sentence(cause).rstrip('.')}; {again}"
    return (
        f"shard {share}: expected it to end, found its process dead {retries + 1} times ({first_line(error)}); most "
        f"likely the memory ran out: raise num_cpus, so that fewer run at a time; {again}"
    )
