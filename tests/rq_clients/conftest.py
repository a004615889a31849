"""What the tests of plain RQ's clients share."""

import pytest
import redis
from rq import Queue

from builders import rq_queue


@pytest.fixture
def queue(connection: redis.Redis) -> Queue:
    return rq_queue(connection)
