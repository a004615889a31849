"""A dashboard that may write nothing, neither by its settings nor by what its user may do in Redis."""

import re
from collections.abc import Iterator

import pytest
import redis

from boilerd import Client
from boilerd.broker.connection import connect
from boilerd.web.page import PAGES
from browser import Browser, asking, web_app
from dashboard_world import address, fill
from pages import DOCS, blocks
from support import Valkey


@pytest.fixture
def examples(connection: redis.Redis, client: Client) -> dict[str, str]:
    """What the addresses of pages may name, on a server with something of each kind."""
    return fill(client, connection)


@pytest.fixture
def reading(valkey: Valkey, connection: redis.Redis) -> Iterator[redis.Redis]:
    """A client of the user that the page on the dashboard makes."""
    (command,) = [
        line for block in blocks(DOCS / "web.md") for line in block.text.splitlines() if "ACL SETUSER" in line
    ]
    _, *words = command.replace("PASSWORD", "secret").split()
    connection.execute_command("ACL", *words)  # type: ignore[no-untyped-call]
    connection.script_flush()
    try:
        with connect(re.sub("^unix://", "unix://dashboard:secret@", valkey.url)) as found:
            yield found
    finally:
        connection.acl_deluser("dashboard")


def test_every_page_is_shown_to_a_user_of_redis_who_may_only_read(
    examples: dict[str, str], reading: redis.Redis, connection: redis.Redis
) -> None:
    before = connection.info("persistence")["rdb_changes_since_last_save"]

    with Browser(web_app(reading, read_only=True)) as browser:
        answers = {
            path: browser.get(path)
            for page in PAGES
            for base in [address(page.path, examples)]
            for path in [
                base,
                asking(page.path, base, queue="default", state="retry", q="n", search="1"),
                *([f"{base}.csv"] if page.rows else []),
            ]
        }

    assert {path: answer.text for path, answer in answers.items() if answer.status_code != 200} == {}
    assert [path for path, answer in answers.items() if "NOPERM" in answer.text or "no permission" in answer.text] == []
    assert connection.info("persistence")["rdb_changes_since_last_save"] == before


def test_the_user_of_a_read_only_dashboard_changes_nothing(reading: redis.Redis, connection: redis.Redis) -> None:
    write = "return redis.call('SET', 'boilerd:x', '1')"
    for command in (["SET", "boilerd:x", "1"], ["EVAL", write, "0"], ["KEYS", "*"], ["CLIENT", "KILL", "ID", "1"]):
        with pytest.raises(redis.exceptions.NoPermissionError):
            reading.execute_command(*command)  # type: ignore[no-untyped-call]
    with pytest.raises(redis.ResponseError):
        reading.execute_command("EVAL_RO", write, "0")  # type: ignore[no-untyped-call]

    assert not connection.exists("boilerd:x")
