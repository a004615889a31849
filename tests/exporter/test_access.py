"""Who may ask for metrics."""

from pathlib import Path

import pytest

from boilerd.exporter.access import Access
from boilerd.exporter.http import Request
from boilerd.settings.addresses import Address, read_networks

TOKEN = "0123456789abcdef"
HERE, ANYWHERE = Address("127.0.0.1", 9464), Address("0.0.0.0", 9464)


def asked(peer: str = "127.0.0.1", **headers: str) -> Request:
    return Request("GET", "/metrics", headers, peer)


@pytest.mark.parametrize("peer", ["10.1.2.3", "192.0.2.7", "::ffff:10.1.2.3", "2001:db8::5", "fe80::1%eth0"])
def test_a_client_of_an_allowed_network_may_ask(peer: str) -> None:
    networks = read_networks(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::/10"])

    assert Access(None, networks, ANYWHERE).admits(asked(peer))


@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.8", "::ffff:11.1.2.3", "::1"])
def test_any_other_client_may_not(peer: str) -> None:
    networks = read_networks(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])

    assert not Access(None, networks, ANYWHERE).admits(asked(peer))


def test_whoever_came_by_a_unix_socket_has_passed_its_mode() -> None:
    networks = read_networks(["10.0.0.0/8"])

    assert Access(None, networks, Path("/run/metrics.sock")).admits(asked(""))
    assert not Access(None, networks, ANYWHERE).admits(asked(""))


@pytest.mark.parametrize(
    ("authorization", "fits"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN}", True),
        (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN}0", False),
        ("Bearer \xff\u20ac", False),
        ("Bearer", False),
        ("", False),
    ],
)
def test_only_the_whole_token_fits(authorization: str, fits: bool) -> None:
    access = Access(TOKEN, [], HERE)

    assert access.has_token(asked(authorization=authorization)) is fits


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("127.0.0.1:9464", True),
        ("localhost:9464", True),
        ("[::1]:9464", True),
        ("10.0.0.1", True),
        ("", True),
        ("evil.example:9464", False),
        ("localhost.evil.example", False),
    ],
)
def test_a_name_that_leads_a_browser_to_this_machine_is_none_of_ours(host: str, may: bool) -> None:
    assert Access(None, [], HERE).admits(asked(host=host)) is may
    assert Access(TOKEN, [], HERE).admits(asked(host=host))
    assert Access(None, read_networks(["127.0.0.0/8"]), ANYWHERE).admits(asked(host=host))


def test_who_may_not_ask_is_told_which_of_the_rules_it_is() -> None:
    by_name = Access(None, [], HERE).refusal(asked(host="prometheus.internal"))
    by_address = Access(None, read_networks(["10.0.0.0/8"]), ANYWHERE).refusal(asked("192.0.2.7"))

    assert by_name.endswith("without metrics_token; ask for localhost or an address")
    assert by_address == "metrics_allow does not name this client"
