"""A PostgreSQL for each process of the tests that needs one, emptied before each test."""

from collections.abc import Iterator

import pytest

from postgres import Postgres
from support import private_directory


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[Postgres]:
    with private_directory() as directory:
        server = Postgres(directory).create().start()
        yield server
        server.stop()


@pytest.fixture
def postgres(shared_postgres: Postgres) -> Postgres:
    """A server that answers and is empty."""
    shared_postgres.empty()
    return shared_postgres
