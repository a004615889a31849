"""Read the facts that a verdict is made of: from the daemon of this host, from Redis and from the state directory."""

from contextlib import suppress
from dataclasses import asdict
from typing import Any

from boilerd.broker import server_check
from boilerd.broker.connection import connect_to
from boilerd.broker.metrics import Metrics
from boilerd.broker.overview import Overview, read_overview
from boilerd.broker.sudden_failures import SuddenFailure, sudden_failures
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.output import echo
from boilerd.cli.rpc_client import DaemonStatus
from boilerd.errors import BrokerError, BrokerRefusedError
from boilerd.settings.definitions import Settings
from boilerd.verdict.facts import Facts
from boilerd.verdict.finding import Verdict
from boilerd.worker.left_outcomes import count_left


def read_facts(
    settings: Settings, daemon: DaemonStatus, *, max_latency_s: float | None = None, is_storing: bool = True
) -> Facts:
    """The facts at this moment; six round trips to Redis where there are few queues.

    Args:
        settings: Those of the daemon of this host, where one answers.
        daemon: What it tells of itself.
        max_latency_s: The longest that a task may have waited; None: any time.
        is_storing: True to make sure that Redis takes new tasks, by a script that writes.
    """
    overview, failing, broker_error = _of_redis(settings, is_storing=is_storing)
    seen = Facts(broker_error=broker_error, overview=overview, failing=failing, max_latency_s=max_latency_s)
    return seen.of_host(settings, daemon, count_left(settings))


def print_verdict(verdict: Verdict, most: int | None = None) -> None:
    """Print the verdict, and each finding with its command, or so many of them."""
    if not verdict.findings:
        echo(verdict.word)
    for number, finding in enumerate(verdict.findings[:most]):
        echo(f"{verdict.word if number == 0 else finding.severity}: {finding.says}", f"  see {finding.command}")
    if most and (rest := len(verdict.findings) - most) > 0:
        echo(f"and {rest:,} more: boilerd health --explain")


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """The verdict as fields of a JSON object."""
    findings = [asdict(finding) for finding in verdict.findings]
    return {"verdict": verdict.word, "sentence": verdict.sentence, "findings": findings}


def _of_redis(settings: Settings, *, is_storing: bool) -> tuple[Overview | None, list[SuddenFailure], str]:
    """What Redis shows, and why it does not do what is needed."""
    overview, failing = None, list[SuddenFailure]()
    try:
        with naming_missing_broker(settings), connect_to(settings, timeout_s=2.0) as connection:
            overview = read_overview(connection, settings.served_queues())
            with suppress(BrokerRefusedError):  # a user with few rights sees all but the metrics
                failing = sudden_failures(Metrics(connection))
            if is_storing:
                server_check.probe(connection, is_storing=True)
    except BrokerError as error:
        return overview, failing, str(error)
    return overview, failing, ""
