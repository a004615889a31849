"""What is measured: boilerd, some variants of it, and its peers, each in an environment of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis
from server import Server, wait_until
from trees import Tree

HERE = Path(__file__).parent
ENVIRONMENTS = Path("build/bench/envs")
WORKERS = 10
#: Another checkout of boilerd, to be compared with this one.
BEFORE = "boilerd-before"
#: 60 bytes of JSON.
PAYLOAD = {"message": "x" * 46}


@dataclass(frozen=True)
class Peer:
    """How to run one, and what it promises.

    Attributes:
        environment: Where it is installed: ``boilerd``, or a file in requirements/.
        app: Module in apps/ that defines its tasks and how to enqueue them.
        command: Program and arguments; {url}, {workers}, {directory}, {app} and {copy} are filled in.
        lists: Redis keys that are empty when nothing waits.
        others: Keys that are empty when nothing is running either; none: it does not tell.
        rates: About how many no-op, CPU and sleep tasks a second, for the length of a measure.
        is_variant: Only its throughput is measured.
        group: With whom it is compared: ``processes`` that run one task at a time, ``slots`` for many waiting tasks
            in each process, or ``threads``.
        form: Of its handlers that wait: ``async`` or ``plain``.
        copies: How often the program is started, where it has no way to run several processes itself.
    """

    environment: str
    app: str
    command: str
    lists: tuple[str, ...]
    others: tuple[str, ...]
    rates: tuple[int, int, int]
    delivery: str
    notes: str
    package: str
    is_variant: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    group: str = "processes"
    form: str = "async"
    copies: int = 1


_BOILERD = "boilerd run --redis-url {url} --state-dir {directory} --app {app}:mux --concurrency {workers} --log-level "
_RQ = "rq worker-pool -n {workers} -u {url} -q default --serializer json --quiet"


def _boilerd(command: str, *, is_variant: bool = True, environment: str = "boilerd") -> Peer:
    return Peer(
        environment, "app_boilerd", _BOILERD + command, ("rq:queue:default",), ("rq:wip:default",), (36000, 1600, 480),
        "at least once", "acknowledges and claims in one call", "boilerd", is_variant,
    )  # fmt: skip


def _rq(command: str, rates: tuple[int, int, int], notes: str) -> Peer:
    return Peer(
        "boilerd", "app_rq", command, ("rq:queue:default",), ("rq:wip:default",), rates,
        "at least once, but for a gap at the claim", notes, "rq",
    )  # fmt: skip


PEERS: Mapping[str, Peer] = {
    "boilerd": _boilerd("error", is_variant=False),
    BEFORE: _boilerd("error", is_variant=False, environment=BEFORE),
    "boilerd-logs": _boilerd("info --log-output file --log-file {directory}/log"),
    "boilerd-no-prefetch": _boilerd("error --prefetch false"),
    "huey": Peer(
        "huey", "app_huey", "huey_consumer {app}.huey -w {workers} -k process -q -n", ("huey.redis.bench",), (),
        (9000, 1400, 480), "at most once", "10 processes, no log lines, no results", "huey",
    ),
    "dramatiq": Peer(
        "dramatiq", "app_dramatiq", "dramatiq {app} -p {workers} -t 1 --skip-logging", ("dramatiq:default",),
        ("dramatiq:default.msgs",), (2700, 1200, 470), "at least once", "10 processes of one thread, no log lines",
        "dramatiq",
    ),
    "taskiq": Peer(
        "taskiq", "app_taskiq",
        "taskiq worker {app}:broker --workers {workers} --max-async-tasks 1 --max-prefetch 0 --log-level ERROR"
        " --no-parse",
        ("taskiq",), (), (1400, 700, 350), "at most once", "10 processes, list broker, uvloop", "taskiq",
    ),
    "celery": Peer(
        "celery", "app_celery",
        "celery -A {app} worker -c {workers} --loglevel=ERROR --without-gossip --without-mingle --without-heartbeat",
        ("celery",), ("unacked",), (600, 340, 400), "at least once (acks_late)", "prefork, prefetch multiplier 4",
        "celery",
    ),
    "rq-simple": _rq(f"{_RQ} --worker-class rq.worker.SimpleWorker", (350, 200, 250), "no fork a task"),
    "rq": _rq(_RQ, (70, 55, 65), "worker-pool, forks for each task"),
}  # fmt: skip


def prepare(name: str) -> Path:
    """The bin/ of an environment; made from its locked requirements when it is not there."""
    if name == "boilerd":
        return Path(sys.executable).parent.absolute()
    place = (ENVIRONMENTS / name).absolute()
    if not (place / ".ready").exists():
        print(f"installing {name} into {place}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        requirements = HERE / "requirements" / f"{name}.txt"
        pip = [place / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*pip, "-r", requirements], check=True)
        (place / ".ready").touch()
    return place / "bin"


class Bench:
    """Starts peers on the server, and drives them.

    Args:
        server: Where all of them work.
        directory: For files and sockets.
        environments: Name → bin/ directory.
    """

    def __init__(self, server: Server, directory: Path, environments: Mapping[str, Path]) -> None:
        self.server = server
        self.connection: redis.Redis = server.connection
        self.directory = directory
        self.probes = directory / "probes"
        self.counts = directory / "counts"
        self._environments = environments

    def fresh(self) -> None:
        """Forget all data, probes and counts."""
        self.connection.flushall()
        self.connection.config_resetstat()
        self.probes.write_bytes(b"")
        for path in (self.directory / "log", *self._counters("*")):
            path.unlink(missing_ok=True)

    def start(self, peer: Peer, workers: int = WORKERS, *flags: str) -> Tree:
        """Start its workers, and wait for nothing."""
        path = self._environments[peer.environment]
        commands = []
        for copy in range(peer.copies):
            command = peer.command.format(
                url=self.server.url, workers=workers, directory=self.directory, app=peer.app, copy=copy
            )
            program, *arguments = command.split()
            commands.append([str(path / program), *arguments, *flags])
        return Tree(commands, self._env(peer), self.directory)

    def drive(self, peer: Peer, *words: object) -> str:
        """Have a client of the peer do something: see driver.py; what it printed."""
        python = self._environments[peer.environment] / "python"
        command = [str(python), str(HERE / "driver.py"), peer.app, *map(str, words)]
        done = subprocess.run(command, env=self._env(peer), check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench: a client of {peer.app} failed: {done.stderr}")
        return done.stdout.strip()

    def driver(self, peer: Peer) -> Callable[[str], float]:
        """A client that stays: enqueues one task of a kind, and answers with the seconds that took."""
        python = self._environments[peer.environment] / "python"
        command = [str(python), str(HERE / "driver.py"), peer.app, "serve"]
        process = subprocess.Popen(
            command, env=self._env(peer), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def enqueue(words: str) -> float:
            if not words:
                stdin.close()
                return float(process.wait())
            stdin.write(f"{words}\n")
            return float(stdout.readline())

        return enqueue

    def warm(self, peer: Peer, workers: int = WORKERS) -> None:
        """Wait until tasks run, and every worker had the chance to run one."""
        for _ in range(3):
            self.drive(peer, "fill", "sleep", 3 * workers)
            self.wait_drained(peer)

    def wait_drained(self, peer: Peer) -> None:
        """Wait until nothing waits, and nothing runs where the peer tells."""
        # Looks seldom: with two cores, looking is work that the peer cannot do.
        wait_until(lambda: self.is_drained(peer), f"{peer.app} has drained its queue", every_s=0.005)

    def is_drained(self, peer: Peer) -> bool:
        """Whether nothing is left to do."""
        kinds = {b"list": "llen", b"zset": "zcard", b"hash": "hlen"}
        for key in (*peer.lists, *peer.others):
            kind = self.connection.type(key)
            if kind != b"none" and getattr(self.connection, kinds[kind])(key):
                return False
        return True

    def count(self, what: str = "ended") -> int:
        """How many tasks have ended, or begun, of those that count themselves; see apps/waits.py."""
        return sum(int.from_bytes(path.read_bytes(), sys.byteorder) for path in self._counters(what))

    def _counters(self, what: str) -> Iterable[Path]:
        return self.directory.glob(f"{self.counts.name}.{what}.*")

    def version(self, peer: Peer) -> str:
        """Of the package that is measured."""
        python = self._environments[peer.environment] / "python"
        code = f"from importlib.metadata import version; print(version({peer.package!r}))"
        return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    def _env(self, peer: Peer) -> dict[str, str]:
        # Installed programs are compiled; this tree must not pay for a shell that keeps Python from doing it once.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {
            **inherited, **peer.env, "BENCH_URL": self.server.url, "BENCH_PROBES": str(self.probes),
            "BENCH_COUNTS": str(self.counts), "PYTHONPATH": f"{HERE / 'apps'}", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
