"""What is wrong in the table ``[web]``, and in the other tables that msgspec reads, is told in words."""

import json

import pytest

from boilerd.cli.web import _changed
from boilerd.errors import BootError, ConfigError
from boilerd.settings.loading import load
from boilerd.settings.web import Web

ZEROS = "0" * 64
HASH = "a hash as `boilerd web password` prints it"
NAMES = 'a list of names such as "jobs.example", without scheme and port'
PLACES = 'a list of paths such as "user.*.email", of names with a dot between'
QUEUES = "a list of names of queues, or of what they begin with and *, such as"


def told(name: str, value: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ={f"BOILERD_{name.upper()}": json.dumps(value)})
    return str(caught.value).removeprefix(f"BOILERD_{name.upper()}: {name}: ")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"prefix": "x/"}, "prefix: 'x/' is not a path such as /jobs, of letters, digits and . _ ~ -, without /"),
        ({"trusted_header": "a b"}, "trusted_header: 'a b' is not the name of a header, such as X-Forwarded-User"),
        ({"port": 99999}, "port: 99999 is not a whole number of at least 0 and at most 65535"),
        ({"hosts": "x"}, f"hosts: 'x' is not {NAMES}"),
        ({"hosts": ["jobs.example:8443"]}, f"hosts: ['jobs.example:8443'] is not {NAMES}"),
        ({"hosts": ["https://jobs.example"]}, f"hosts: ['https://jobs.example'] is not {NAMES}"),
        ({"hosts": ["*"]}, f"hosts: ['*'] is not {NAMES}"),
        ({"hosts": ["::1"]}, f"hosts: ['::1'] is not {NAMES}"),
        ({"redact": "user"}, f"redact: 'user' is not {PLACES}"),
        ({"redact": ["user..email"]}, f"redact: ['user..email'] is not {PLACES}"),
        ({"redact": [".email"]}, f"redact: ['.email'] is not {PLACES}"),
        ({"environment": "x" * 41}, f"environment: '{'x' * 41}' is not text of at most 40 characters"),
        ({"read_only": "maybe"}, "read_only: 'maybe' is not true or false"),
        ({"prefixes": 1}, "unknown key 'prefixes'; did you mean 'prefix'?"),
        ({"xyzzy": 1}, "unknown key 'xyzzy'; there are enabled, host, port,"),
        (
            {"links": {"Logs": "ftp://x"}},
            "links.Logs: 'ftp://x' is not an address that begins with http:// or https://",
        ),
        ({"links": 3}, "links: 3 is not a table"),
        ({"users": {"anna": {"role": "viewer"}}}, f"users.anna: password is missing; give it {HASH}"),
        (
            {"tokens": {"n": {"sha256": ZEROS, "ends": "2027-01-01"}}},
            "tokens.n.ends: '2027-01-01' is not a moment with",
        ),
        ({"roles": {"anna": "boss"}}, "roles.anna: 'boss' is not viewer, operator, admin, or a list of view,"),
        ({"roles": {"anna": {"queues": []}}}, f"roles.anna.queues: [] is not {QUEUES}"),
        ({"roles": {"anna": {"queues": ["a*b"]}}}, f"roles.anna.queues: ['a*b'] is not {QUEUES}"),
        (5, "5 is not true, false or a table"),
    ],
    ids=str,
)
def test_what_is_wrong_in_the_table_of_the_dashboard_is_told_in_words(table: object, expected: str) -> None:
    found = told("web", table)

    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"users": {"anna": {"password": "secret"}}}, f"users.anna.password: not {HASH}"),
        ({"users": {"anna": "secret"}}, "users.anna: not a table with password, role and queues"),
        ({"users": "secret"}, "users: not a table of tables"),
        ({"tokens": {"n": {"sha256": "secret"}}}, "tokens.n.sha256: not 64 digits as `boilerd web token` prints them"),
    ],
    ids=str,
)
def test_an_error_quotes_no_password_that_stands_where_its_hash_should(table: object, expected: str) -> None:
    assert told("web", table) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("limits", {"low": {"max_active": "x"}}, "low.max_active: 'x' is not a whole number of at least 0"),
        ("limits", {"low": {"max_activ": 1}}, "low: unknown key 'max_activ'; did you mean 'max_active'?"),
        ("limits", 4, "4 is not a table"),
        ("retry", {"factor": 0.5}, "factor: 0.5 is not a number of at least 1"),
        ("cron", 3, "3 is not a list of tables"),
        ("cron", [{"spec": "@daily"}], "[0]: type is missing; give it text"),
        ("cron", [{"spec": "@daily", "type": "a", "headers": {"a": 3}}], "[0].headers.a: 3 is not text"),
    ],
    ids=str,
)
def test_what_is_wrong_in_another_table_is_told_in_words(name: str, value: object, expected: str) -> None:
    assert told(name, value) == expected


def test_what_is_wrong_on_the_command_line_of_the_dashboard_is_told_in_words() -> None:
    with pytest.raises(BootError, match="web: prefix: 'x' is not a path such as /jobs"):
        _changed(Web(), {"prefix": "x"})
