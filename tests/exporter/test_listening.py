"""The exporter's sockets: modes, what is in the way, what is refused."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from boilerd.errors import BootError
from boilerd.exporter import listening
from boilerd.exporter.listening import Listener, check_extra, prepare
from boilerd.settings.addresses import Address
from boilerd.settings.definitions import Settings


def at(place: str | Path) -> Settings:
    return Settings(metrics_listen=str(place))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_path_is_for_its_owner_alone(directory: Path) -> None:
    path = directory / "metrics.sock"

    listener = Listener(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    assert list(directory.iterdir()) == []


def test_with_a_group_it_is_for_that_as_well(directory: Path) -> None:
    path = directory / "metrics.sock"

    listener = Listener(path, os.getegid())

    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == os.getegid()
    listener.close()


def test_what_a_killed_daemon_left_at_a_path_is_replaced(directory: Path) -> None:
    path = directory / "metrics.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    prepare(at(path), None)
    listener = Listener(path)

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_what_another_one_put_at_the_path_meanwhile_stays(directory: Path) -> None:
    path = directory / "metrics.sock"
    old = Listener(path)
    new = Listener(path)

    old.close()

    assert path.exists()
    new.close()


@pytest.mark.parametrize("is_reload", [False, True])
def test_a_path_where_something_else_is_is_refused_and_left_alone(directory: Path, is_reload: bool) -> None:
    path = directory / "metrics.sock"
    path.write_text("mine")

    with pytest.raises(BootError) as raised:
        prepare(at(path), None, is_reload=is_reload)

    assert str(raised.value) == (
        f"metrics_listen {path}: something that is no socket is there; set metrics_listen to another address or path"
    )
    assert path.read_text() == "mine"


def test_a_path_that_others_could_replace_is_refused(directory: Path) -> None:
    directory.chmod(0o777)

    with pytest.raises(BootError, match="everybody may write to"):
        prepare(at(directory / "metrics.sock"), None)


def test_a_path_that_is_too_long_is_refused(directory: Path) -> None:
    with pytest.raises(BootError, match="its name is too long for a socket, of at most 96 bytes; set metrics_listen"):
        prepare(at(directory / ("x" * 96)), None)


def test_a_path_at_which_somebody_listens_is_refused_but_to_the_check_of_a_reload(directory: Path) -> None:
    path = directory / "metrics.sock"
    living = Listener(path)

    with pytest.raises(BootError, match=f"^metrics_listen {path}: Address already in use; set metrics_listen"):
        prepare(at(path), None)
    prepare(at(path), None, is_reload=True)

    living.close()


def test_a_port_that_is_in_use_is_refused_but_to_the_check_of_a_reload(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "WAIT_S", 0.1)

    with pytest.raises(BootError, match=f"^metrics_listen 127.0.0.1:{taken}: Address already in use; set"):
        prepare(at(f"127.0.0.1:{taken}"), None)

    prepare(at(f"127.0.0.1:{taken}"), None, is_reload=True)


def test_a_port_of_a_daemon_that_was_just_killed_is_waited_for(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([OSError(98, "Address already in use"), None])

    def open_ports(place: Address) -> list[socket.socket]:
        if error := next(tries):
            raise error
        return []

    monkeypatch.setattr(listening, "_open_ports", open_ports)

    prepare(at("127.0.0.1:9464"), None)

    assert next(tries, "tried twice") == "tried twice"


def test_a_name_of_several_addresses_is_served_at_each_that_there_is() -> None:
    listener = Listener(Address("localhost", 0))

    told = listener.told

    assert "127.0.0.1:" in told
    listener.close()


def test_a_name_that_leads_nowhere_is_refused() -> None:
    settings = Settings(metrics_listen="nowhere.invalid:9464", metrics_allow=["10.0.0.0/8"])

    with pytest.raises(BootError, match=r"^metrics_listen nowhere\.invalid:9464: "):
        prepare(settings, None)


def test_without_the_extra_a_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(BootError) as raised:
        check_extra(at("127.0.0.1:9464"))
    check_extra(Settings())

    assert str(raised.value) == (
        "metrics_listen needs prometheus-client, which is not installed; install it with"
        " `pip install 'boilerd[metrics]'`"
    )
