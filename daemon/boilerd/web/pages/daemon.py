"""What can be done with the daemon of this host: quiet, resume, restart and scale, as by the commands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from boilerd.errors import RefusedError, shown
from boilerd.settings.pools import MOST_WORKERS
from boilerd.web.links import Links
from boilerd.web.local_daemon import Found, member_of
from boilerd.web.page import Data, Done, action
from boilerd.web.pages.workers import known_worker, local_daemon
from boilerd.web.permissions import Permission
from boilerd.web.visit import NotThereError, QueryError, Visit

if TYPE_CHECKING:
    from boilerd.broker.audit import What

#: What is done at once, as it can be undone; and what is said of it then.
SWITCHES: dict[str, str] = {
    "quiet": "claims nothing more until it is resumed; what runs goes on",
    "resume": "claims tasks again",
}


@action("/daemon/pools/{pool}/{what}", needs=Permission.WORKERS, title="Quiet, resume or scale")
def switch(visit: Visit) -> Done:
    """Have a pool claim nothing, claim again, or have so many workers; one without a name is all of them."""
    pool, what = visit.path["pool"], visit.path["what"]
    _check_there(visit)
    if what == "scale":
        size = _size(visit.given("size"))
        _do(visit, "scale", [size, pool], pool=pool, size=str(size))
        said = f"{_of(pool or 'default')} gets {size:,} workers; those that go end their tasks first"
        return Done(said, to="/workers")
    if what not in SWITCHES:
        raise NotThereError("a pool can be made quiet, resumed, restarted and scaled")
    _do(visit, "quiet" if what == "quiet" else "resume", [pool] if pool else [], pool=pool)
    return Done(f"{_of(pool)} {SWITCHES[what]}", to="/workers")


def _size(given: str) -> int:
    if not (given.isascii() and given.isdecimal() and len(given) < 6 and 1 <= int(given) <= MOST_WORKERS):
        raise QueryError(f"size: give a number of workers from 1 to {MOST_WORKERS}; Quiet stops them from claiming")
    return int(given)


def _about(visit: Visit) -> Data:
    """What a restart is about, and whether it can be done."""
    pool, worker = visit.path.get("pool", ""), visit.path.get("worker", "")
    _check_there(visit)
    found = local_daemon(visit)
    whose = f"worker {worker}" if worker else f"all workers of {_of(pool)}"
    why = _why_not(found, worker) or _why_not_that(found, _meant(visit, found))
    return {
        "question": f"Replace {whose} by fresh ones? Each ends its tasks first, within shutdown_timeout.",
        "facts": [["Daemon", found.name], ["Why not", why]],
        "is_allowed": not why,
        "back": _back(worker),
    }


def _restart(visit: Visit) -> Done:
    """Replace all workers, those of a pool, or one."""
    pool, worker = visit.path.get("pool", ""), visit.path.get("worker", "")
    _check_there(visit)
    names = [_member(visit, worker)] if worker else [pool] if pool else []
    _do(visit, "restart", [names], workers=" ".join(names))
    whose = f"worker {worker}" if worker else _of(pool)
    return Done(f"{whose} is restarted, when its tasks have ended", to=_back(worker))


for _path in ("/daemon/pools/{pool}/restart", "/workers/{worker}/restart"):
    action(_path, needs=Permission.WORKERS, title="Restart", about=_about)(_restart)


def _check_there(visit: Visit) -> None:
    """Raise NotThereError where there is no worker of this name, or the daemon that is meant has no such pool."""
    if worker := visit.path.get("worker", ""):
        known_worker(visit, worker)
    found, pool = local_daemon(visit), visit.path.get("pool", "")
    is_there = pool in {"", *(each["name"] for each in found.pools)}
    if found.name and not is_there and _meant(visit, found) == found.name:
        raise NotThereError(f"the daemon of this host has no pool {shown(pool)}; /workers has all")


def _member(visit: Visit, worker: str) -> str:
    """The worker as its daemon calls it; raises RefusedError where that is another one, or it has ended."""
    if why := _why_not(local_daemon(visit), worker):
        raise RefusedError(why)
    pools = {each.name: each.pool for each in visit.inspector.workers()}
    if worker not in pools:
        raise RefusedError(f"worker {worker} has ended")
    return member_of(worker, pools[worker])


def _why_not(found: Found, worker: str) -> str:
    """Why that cannot be controlled; empty: it can."""
    if not found.name:
        return found.why
    if worker and not found.owns(worker):
        return f"worker {worker} is of another daemon; use boilerd restart on its host"
    return ""


def _why_not_that(found: Found, name: str) -> str:
    return "" if name == found.name else f"the daemon of this host is {found.name} by now, and not {shown(name)}"


def _meant(visit: Visit, found: Found) -> str:
    """The name of the daemon that the page showed; a worker's tells it as well."""
    worker = visit.path.get("worker", "")
    return worker.rpartition(".")[0] if worker else visit.word("daemon", found.name)


def _do(visit: Visit, what: "What", args: Sequence[Any], **on: str) -> None:
    """Have the daemon do it that the page showed, and note that in the audit; raises RefusedError."""
    found, daemon = local_daemon(visit), visit.daemon
    with visit.inspector.noting(what, daemon=daemon.place if daemon else "", **on) as noted:
        if daemon is None or not found.name:
            raise RefusedError(found.why)
        daemon.command(_meant(visit, found), what, *args)
        noted.count = 1


def _of(pool: str) -> str:
    return f"pool {pool}" if pool else "the daemon of this host"


def _back(worker: str) -> str:
    return Links().to("workers", worker) if worker else "/workers"
