"""The setting key_prefix: which prefix the names in `keys` have, in this process and in RQ's part of it.

The names are constants of a module, as RQ's are, so that no call pays for a choice that a process makes once.
"""

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from boilerd.broker import keys
from boilerd.errors import ConfigError

_OWN, _RQS = "BOILERD_KEY_PREFIX", "RQ_KEY_PREFIX"
_lock = threading.Lock()
_in_use = threading.Event()


def use(prefix: str | None) -> None:
    """Have all keys begin with it, from before the first use on; None: with what the environment says.

    Raises:
        ConfigError: Keys with another prefix are in use already.
    """
    with _lock:
        if prefix is None or prefix == keys.RQ:
            return
        if _in_use.is_set():
            raise ConfigError(
                f"key_prefix: this process uses {keys.RQ!r} already, and {prefix!r} needs a process of its own;"
                f" for the whole process set it as {_OWN}"
            )
        with _as_variable(prefix):
            importlib.reload(keys)


def fix() -> None:
    """Note that the names are in use; raises ConfigError where the environment has two prefixes."""
    if _in_use.is_set():
        return
    own, rqs = os.environ.get(_OWN), os.environ.get(_RQS)
    if own and rqs is not None and own != rqs:
        raise ConfigError(f"{_OWN} is {own!r} and {_RQS} is {rqs!r}; give both the same value, or leave one out")
    _in_use.set()


@contextmanager
def shared_with_rq() -> Iterator[None]:
    """Have RQ use the same prefix if it is imported meanwhile: it reads its variable then, and never again."""
    with _as_variable(keys.RQ):
        yield


@contextmanager
def _as_variable(prefix: str) -> Iterator[None]:
    """The environment with this prefix alone; only for a moment, as a reload may bring another one."""
    before = {name: os.environ.pop(name, None) for name in (_OWN, _RQS)}
    os.environ[_RQS] = prefix
    try:
        yield
    finally:
        del os.environ[_RQS]
        os.environ.update({name: value for name, value in before.items() if value is not None})
