"""Look at queues, tasks and workers, and intervene: Asynq's Inspector.

Long queues and registries are read and changed in chunks, so that Redis is never kept from others for more than a few
milliseconds.
"""

from typing import Any, Self

from boilerd.broker.bulk_actions import BulkProgress
from boilerd.broker.connection import connect, connect_to
from boilerd.broker.states import Action
from boilerd.broker.views import Attempt, CompletedTask, CronInfo, Day, QueueDetail, QueueInfo, TaskDetail, WorkerInfo
from boilerd.inspector.actions import ActionsPart
from boilerd.inspector.crons import CronsPart
from boilerd.inspector.queues import QueuesPart
from boilerd.inspector.system import SystemPart
from boilerd.inspector.tasks import TasksPart
from boilerd.settings.definitions import Settings
from boilerd.settings.finding import find_settings


class Inspector(QueuesPart, TasksPart, ActionsPart, CronsPart, SystemPart):
    """Reads what the broker holds, and does what a person asks.

    It takes the same connections as `Client`. Every method raises BrokerError if Redis does not answer, or refuses.
    What changes something is noted in the audit.

    Args:
        connection: The client of Redis.
        by: Who intervenes, for the audit; without it the user of this process, from Python.
    """

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """An inspector of the Redis at `url`; options as `Client.from_url` has them."""
        return cls(connect(url, **options))

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """An inspector of the Redis that the settings name; without settings, those of the command line are used."""
        return cls(connect_to(settings or find_settings(), is_client=True))

    def close(self) -> None:
        """Close the connections."""
        self._broker.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


__all__ = [
    "Action",
    "Attempt",
    "BulkProgress",
    "CompletedTask",
    "CronInfo",
    "Day",
    "Inspector",
    "QueueDetail",
    "QueueInfo",
    "TaskDetail",
    "WorkerInfo",
]
