"""The exporter's process: a loop in a thread serves, the main thread waits until it is to end."""

import asyncio
import logging
import os
import threading
from collections.abc import Sequence

import redis
from setproctitle import setproctitle

from boilerd.exporter.access import Access
from boilerd.exporter.http import MOST_HEAD_BYTES, Server
from boilerd.exporter.listening import Listener, listen
from boilerd.exporter.pages import Pages
from boilerd.exporter.snapshot import Reader
from boilerd.process.exit_status import OK
from boilerd.process.scoreboard import EXPORTER_ROW, Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.settings.definitions import Settings
from boilerd.tasks.cron import CronEntry
from boilerd.verdict.facts import AskDaemon

logger = logging.getLogger("boilerd.exporter")

#: How often it shows that it gets on, and looks whether its parent lives.
LOOK_EVERY_S = 1.0
#: The status of a process that could not listen, or whose loop ended.
_FAILED = 1


class Exporter:
    """Serves until the supervisor wants it to end, or has gone.

    Args:
        settings: Those of the daemon.
        connection: The client of Redis, of this process alone.
        ask_daemon: Asks the daemon how it is.
        crons: Its periodic tasks.
        scoreboard: Where it shows that it gets on.
        gid: The group that may ask at a path; None: none.
        parent: Process ID of the supervisor.
    """

    def __init__(
        self,
        settings: Settings,
        connection: redis.Redis,
        ask_daemon: AskDaemon,
        *,
        scoreboard: Scoreboard,
        parent: int,
        crons: Sequence[CronEntry] = (),
        gid: int | None = None,
    ) -> None:
        self._parent = parent
        self._stop = StopRequest(accepts=self._may_end)
        self._settings = settings
        self._scoreboard = scoreboard
        self._gid = gid
        reader = Reader(settings, connection, ask_daemon, crons)
        self._pages = Pages(reader, ask_daemon, Access.of(settings), settings.release or "")

    def serve(self) -> int:
        """Serve until told to stop; the exit status."""
        setproctitle("boilerd: exporter")
        try:
            listener = listen(self._settings, self._gid)
        except OSError as error:
            fields = {"address": self._settings.metrics_listen, "error": error.strerror or str(error)}
            logger.error("metrics cannot be served", extra=fields)  # noqa: TRY400 - its message says it all
            return _FAILED
        loop = threading.Thread(target=asyncio.run, args=[self._run(listener)], daemon=True)
        loop.start()
        self._scoreboard.mark_booted(EXPORTER_ROW)
        logger.info("metrics are served", extra={"address": listener.told})
        while not self._stop and not self._is_orphaned() and loop.is_alive():
            self._stop.pause(LOOK_EVERY_S)
        listener.close()
        return OK if loop.is_alive() else _FAILED

    async def _run(self, listener: Listener) -> None:
        server = Server(self._pages.answer)
        serving = [
            await asyncio.start_server(server.serve, sock=each, limit=MOST_HEAD_BYTES) for each in listener.sockets
        ]
        while serving:
            self._scoreboard.show_life(EXPORTER_ROW)  # from the loop: one that hangs is replaced
            await asyncio.sleep(LOOK_EVERY_S)

    def _may_end(self) -> bool:
        """A TERM to all processes is the supervisor's: until it ends, its metrics tell of its drain."""
        return self._scoreboard.is_dismissed(EXPORTER_ROW) or self._is_orphaned()

    def _is_orphaned(self) -> bool:
        return os.getppid() != self._parent
