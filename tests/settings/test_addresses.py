"""Where the exporter may listen, and what is refused before anything does."""

import pytest

from boilerd.errors import ConfigError
from boilerd.settings.addresses import Address, read_address
from boilerd.settings.loading import Loaded, load

TOKEN = "0123456789abcdef"
OPEN = (
    "metrics_listen: other hosts can reach {}, and nothing says which may ask; set metrics_token or metrics_allow, or"
    " listen at 127.0.0.1:9464 or at a path"
)


def loaded(**variables: str) -> Loaded:
    return load(environ={f"BOILERD_METRICS_{name.upper()}": value for name, value in variables.items()})


def refusal(**variables: str) -> str:
    with pytest.raises(ConfigError) as raised:
        loaded(**variables)
    return str(raised.value)


@pytest.mark.parametrize(
    "place", ["127.0.0.1:9464", "127.8.9.1:1", "[::1]:9464", "localhost:0", "/run/boilerd/metrics.sock"]
)
def test_what_only_this_host_can_reach_needs_no_word_on_who_may_ask(place: str) -> None:
    settings = loaded(listen=place).settings

    assert settings.metrics_listen == place
    assert str(read_address(place)) == place


@pytest.mark.parametrize(
    "place", ["0.0.0.0:9464", "[::]:9464", "10.1.2.3:9464", "app1.internal:9464", "localhost.:9464"]
)
def test_what_other_hosts_can_reach_is_refused_in_a_line_that_says_what_would_do(place: str) -> None:
    assert refusal(listen=place) == OPEN.format(place)

    assert loaded(listen=place, token=TOKEN).settings.metrics_listen == place
    assert loaded(listen=place, allow="10.0.0.0/8,192.0.2.7").settings.metrics_allow == ["10.0.0.0/8", "192.0.2.7"]


@pytest.mark.parametrize(
    "place",
    ["9464", ":9464", "metrics.sock", "127.0.0.1", "127.0.0.1:65536", "::1:9464", "[::1:9464", "[1.2.3.4]:1", "*:1"],
)
def test_what_is_no_address_is_refused_with_an_example(place: str) -> None:
    assert refusal(listen=place) == (
        f"BOILERD_METRICS_LISTEN: metrics_listen: {place!r} is not an absolute path, or HOST:PORT such as"
        " 127.0.0.1:9464 or [::1]:9464"
    )


def test_a_network_that_is_none_is_refused() -> None:
    assert refusal(allow="10.0.0.0/8,everybody") == (
        "BOILERD_METRICS_ALLOW: metrics_allow: '10.0.0.0/8,everybody' is not networks or addresses, such as"
        " 10.0.0.0/8 or 192.0.2.7"
    )


@pytest.mark.parametrize("token", ["short", "with spaces in it", "0123456789abcdeé", "0123456789abcde\t"])
def test_a_token_that_is_soon_found_or_that_nobody_can_send_is_refused_and_not_shown(token: str) -> None:
    found = refusal(listen="127.0.0.1:0", token=token)

    assert "metrics_token" in found
    assert "is not at least 16 printable ASCII characters without spaces" in found
    assert token not in found


def test_an_address_of_ipv6_is_told_in_brackets() -> None:
    assert str(Address("::1", 9464)) == "[::1]:9464"
