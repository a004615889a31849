"""The worker as RQ's tools and functions see it; the one use of RQ's own worker."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis
from rq.job import Job, _current_job
from rq.serializers import JSONSerializer
from rq.version import VERSION
from rq.worker import BaseWorker

from boilerd.broker.broker import Broker
from boilerd.broker.neighbours import Declared
from boilerd.broker.refusals import translated
from boilerd.process.identity import birthmark
from boilerd.tasks.queues import DEFAULT_POOL, ClaimOrder

#: Of RQ itself.
RQ_VERSION: str = VERSION


class RQWorker(BaseWorker):
    """An entry in RQ's registry: ``rq:workers``, and a record with heartbeat, state and statistics.

    Args:
        broker: Of the worker's process, with a connection that is not in use yet.
        name: Of the worker.
        order: In which it claims from its queues.
        address: How Redis knows this host.
        declared: What the application declares.
        pool: The name of its pool.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        name: str,
        order: ClaimOrder,
        address: str,
        declared: Declared,
        pool: str = DEFAULT_POOL,
    ) -> None:
        super().__init__(
            list(order.names),
            name=name,
            connection=broker.connection,
            serializer=JSONSerializer,
            log_job_description=False,
            prepare_for_work=False,  # it would talk to Redis here, where an outage cannot be waited for
        )
        self._broker = broker
        self.pool = pool
        self._record = {
            "queues": ",".join(order.names),
            "hostname": socket.gethostname(),
            "ip_address": address,
            "version": self.version,
            "python_version": self.python_version,
            "state": "starting",
            "application": declared.encoded(),
            # The scheduler sees by it whether this daemon lives: of a dead one, it settles the workers' claims.
            "supervisor": birthmark(),
        }
        if pool != DEFAULT_POOL:
            self._record["pool"] = pool
        if order.is_strict and len(order.names) > 1:
            self._record["strict"] = "1"

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """Keep our own timeouts; RQ would wait seven minutes for an answer."""
        return connection

    def register_birth(self, **fields: str | int) -> None:
        """Appear in RQ's registry, with further fields, in place of a predecessor that had no time to leave it."""
        self.pid = os.getpid()
        names = [queue.name for queue in self.queues]
        self._broker.register(self.name, names, {**self._record, "pid": self.pid, "birthmark": birthmark(), **fields})

    def register_death(self) -> None:
        """Leave RQ's registry."""
        with translated():
            super().register_death()  # type: ignore[no-untyped-call]

    @contextmanager
    def as_current_job(self, task_id: str) -> Iterator[None]:
        """Have RQ's ``get_current_job`` answer with this job; with None where RQ cannot read it."""
        job = None
        with suppress(Exception):  # anything may stand in the record, and be too much for RQ
            job = Job.fetch(task_id, self.connection, JSONSerializer)
        token = _current_job.set(job)
        try:
            yield
        finally:
            _current_job.reset(token)
