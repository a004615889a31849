"""Say what to do where there is no broker because no daemon runs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from boilerd.errors import BrokerUnavailableError
from boilerd.settings.definitions import Settings


@contextmanager
def naming_missing_broker(settings: Settings) -> Iterator[None]:
    """Raise a BrokerUnavailableError with what would do, where an embedded Valkey is meant and none is there."""
    try:
        yield
    except BrokerUnavailableError as error:
        raise _no_broker(settings, error) from error


def _no_broker(settings: Settings, error: BrokerUnavailableError) -> BrokerUnavailableError:
    with suppress(PermissionError):  # the error names it already
        if settings.redis_url is None and not settings.valkey_socket().exists():
            return BrokerUnavailableError(
                f"no broker: no daemon with an embedded Valkey at {settings.runtime_path()};"
                " start `boilerd run`, or set redis_url (BOILERD_REDIS_URL)"
            )
    return error
