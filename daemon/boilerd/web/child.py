"""The dashboard as a process of the daemon: a loop in a thread serves, the main thread waits until it is to end."""

import logging
import os
import threading

from setproctitle import setproctitle

from boilerd.errors import BoilerdError
from boilerd.process.exit_status import OK
from boilerd.process.scoreboard import DASHBOARD_ROW, Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.settings.definitions import Settings
from boilerd.verdict.facts import AskDaemon
from boilerd.web.listening import address_of, listen
from boilerd.web.serving import make_server

logger = logging.getLogger("boilerd.web")

#: How often it looks whether its parent lives.
LOOK_EVERY_S = 1.0
#: How long it may take until it listens, on a machine that is busy.
START_S = 30.0
#: How long requests have at the end; then it ends all the same.
GRACE_S, END_S = 1, 2.0
#: The status of a process that could not listen, or whose loop ended.
_FAILED = 1


class Dashboard:
    """Serves until the supervisor wants it to end, or has gone.

    Args:
        settings: Those of the daemon.
        ask_daemon: Asks the daemon how it is.
        scoreboard: Where it shows that it gets on.
        parent: Process ID of the supervisor.
    """

    def __init__(self, settings: Settings, ask_daemon: AskDaemon, *, scoreboard: Scoreboard, parent: int) -> None:
        self._parent = parent
        self._stop = StopRequest(accepts=self._may_end)
        self._settings = settings
        self._ask_daemon = ask_daemon
        self._scoreboard = scoreboard

    def serve(self) -> int:
        """Serve until told to stop; the exit status."""
        setproctitle("boilerd: dashboard")
        self._scoreboard.begin_start(DASHBOARD_ROW, START_S)  # what ends before it listens has failed to start
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        try:
            server = make_server(self._settings, self._ask_daemon, grace_s=GRACE_S, show_life=self._show_life)
            listener = listen(self._settings.web)
        except BoilerdError as error:
            logger.error("the dashboard cannot be served", extra={"error": str(error)})  # noqa: TRY400 - it says it all
            return _FAILED
        # In a thread uvicorn leaves the signals alone.
        loop = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        loop.start()
        self._scoreboard.mark_booted(DASHBOARD_ROW)
        logger.info("the dashboard is served", extra={"address": address_of(self._settings.web, listener)})
        while not self._stop and not self._is_orphaned() and loop.is_alive():
            self._stop.pause(LOOK_EVERY_S)
        is_well = loop.is_alive()
        server.should_exit = True
        loop.join(END_S)
        return OK if is_well else _FAILED

    async def _show_life(self) -> None:
        """From the loop: one that hangs is replaced."""
        self._scoreboard.show_life(DASHBOARD_ROW)

    def _may_end(self) -> bool:
        """A TERM to all processes is the supervisor's: until it ends, the dashboard shows its drain."""
        return self._scoreboard.is_dismissed(DASHBOARD_ROW) or self._is_orphaned()

    def _is_orphaned(self) -> bool:
        return os.getppid() != self._parent
