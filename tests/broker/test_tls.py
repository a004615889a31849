"""A broker that is reached through TLS."""

import asyncio
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import BrokerUnavailableError, Client, TaskState
from boilerd.broker import waiter
from boilerd.broker.broker import Broker
from builders import complete_next
from support import DEADLINE_S, RunningDaemon, StartValkey, Valkey, wait_until


class Terminator:
    """Takes TLS connections on a loopback port, and passes what they hold to a Unix socket.

    The tests' Valkey is built without TLS, so this stands in front of it; a client sees no difference.

    Attributes:
        url: Its address, without the certificate to trust.
        certificate: Its own, which is self-signed.
    """

    def __init__(self, directory: Path, upstream: Path) -> None:
        self.certificate = directory / "certificate.pem"
        key = directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", key, "-out", self.certificate, "-days", "2", "-subj", "/CN=broker",
             "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True, timeout=20,
        )  # fmt: skip
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(self.certificate, key)
        self._upstream = upstream
        self._is_listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), name="terminator")
        self._thread.start()
        assert self._is_listening.wait(20)

    def close(self) -> None:
        """Stop listening, and cut every connection."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _listen(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.url = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        self._is_listening.set()
        await self._over.wait()
        server.close()  # what is connected is cut when the loop ends

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_unix_connection(self._upstream)
        await asyncio.gather(_pass_on(reader, broker_writer), _pass_on(broker_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.transport.abort()


@pytest.fixture
def terminator(valkey: Valkey, directory: Path) -> Iterator[Terminator]:
    with closing(Terminator(directory, valkey.socket)) as made:
        yield made


def test_tasks_are_enqueued_and_run_over_tls(
    start_daemon: Callable[..., RunningDaemon], terminator: Terminator
) -> None:
    url = f"{terminator.url}?ssl_ca_certs={terminator.certificate}"
    daemon = start_daemon("--concurrency", "2", redis_url=url).ready()

    with Client.from_url(url) as client:
        ids = [client.enqueue("test:echo", "x" * 100_000).id for _ in range(5)]

    for task_id in ids:
        daemon.wait_for("task completed", task_id=task_id)
    assert daemon.stop() == 0


def test_a_result_is_waited_for_over_tls(
    terminator: Terminator, broker: Broker, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter, "POLL_S", 3600)
    with (
        Client.from_url(f"{terminator.url}?ssl_ca_certs={terminator.certificate}") as client,
        ThreadPoolExecutor(1) as threads,
    ):
        waiting = threads.submit(client.enqueue("test:echo", retention=60).wait, 60)
        wait_until(lambda: connection.info("stats")["tracking_total_keys"], "the record is watched")
        complete_next(broker, result=b'"%b"' % (b"x" * 1_000_000))

        assert waiting.result(DEADLINE_S) == "x" * 1_000_000


def test_a_broker_whose_certificate_nobody_vouches_for_is_refused(terminator: Terminator) -> None:
    with (
        Client.from_url(terminator.url) as client,
        pytest.raises(BrokerUnavailableError, match="CERTIFICATE_VERIFY_FAILED") as refusal,
    ):
        client.enqueue("test:echo")

    assert not refusal.value.was_sent


def test_a_client_waits_for_a_stalled_broker_no_longer_than_its_timeout_over_tls_as_well(
    start_valkey: StartValkey, directory: Path
) -> None:
    server = start_valkey()
    assert server.process
    with (
        closing(Terminator(directory, server.socket)) as terminator,
        Client.from_url(f"{terminator.url}?ssl_ca_certs={terminator.certificate}", timeout_s=1.0) as client,
    ):
        client.enqueue("test:echo")
        os.kill(server.process.pid, signal.SIGSTOP)
        began_s = time.monotonic()

        with pytest.raises(BrokerUnavailableError, match=r"did not answer within 1 s; task .* may have been stored"):
            client.enqueue("test:echo")

        assert 0.9 < time.monotonic() - began_s < 30


def test_a_client_without_a_timeout_enqueues_over_tls_as_well(terminator: Terminator) -> None:
    forever: Any = None
    url = f"{terminator.url}?ssl_ca_certs={terminator.certificate}"
    with Client.from_url(url, timeout_s=forever) as client:
        answers = [client.enqueue("test:echo").state for _ in range(3)]

    assert answers == [TaskState.PENDING] * 3
