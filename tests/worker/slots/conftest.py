"""Workers with slots in processes of their own."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from boilerd import ServeMux
from boilerd.broker.connection import connect
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.queues import ClaimOrder
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.limits import Limits, SlotLimits
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.worker import SlottedWorker
from builders import worker_name
from slotted import ForkedWorker, Gate, StartWorker
from support import Valkey


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def start_worker(valkey: Valkey, scoreboard: Scoreboard, directory: Path) -> Iterator[StartWorker]:
    """Start workers in children, each with a connection of its own."""
    with ExitStack() as stack:

        def start(
            mux: ServeMux, *, slots: int = 10, row: int = 0, url: str = valkey.url, **options: Any
        ) -> ForkedWorker:
            limits = options.pop("limits", None) or Limits(drain_s=10)
            rules = Rules.of(mux, options.pop("policy", RetryPolicy(max_retries=0)), lambda handler: handler)
            worker = SlottedWorker(
                stack.enter_context(connect(url)),
                name=worker_name(row),
                title=f"worker:{row}",
                order=options.pop("order", None) or ClaimOrder({"default": 1}, is_strict=True),
                rules=rules,
                limits=limits,
                slot_limits=options.pop("slot_limits", None) or SlotLimits(slots=slots),
                parts=options.pop("parts", 2),
                scoreboard=scoreboard,
                row=row,
                address="",
                kept=KeptOutcomes(directory / "kept", "broker"),
                life=mux.life,
                **options,
            )
            forked = ForkedWorker(worker, directory / f"log-{row}")
            stack.callback(forked.close)
            return forked

        yield start


@pytest.fixture
def gate(directory: Path) -> Iterator[Gate]:
    made = Gate(directory)
    yield made
    made.open()
