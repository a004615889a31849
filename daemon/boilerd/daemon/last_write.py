"""Wait until a broker can be ended: `python -m boilerd.daemon.last_write URL`, for the unit boiler-valkey.

It ends when all that the broker accepted is written, and nothing more is; or at once where nobody answers.
"""

import select
import sys

from boilerd.broker import append_file
from boilerd.broker.connection import connect_as_daemon
from boilerd.errors import BrokerError

PAUSE_S = 0.2


def main(url: str) -> None:
    """Wait, and say once why."""
    is_told = False
    try:
        with connect_as_daemon(url) as client:
            while left_bytes := append_file.close(client):
                if not is_told:
                    is_told = True
                    sys.stderr.write(f"the disk is full, {left_bytes} accepted bytes are not written: make room\n")
                select.select([], [], [], PAUSE_S)
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")


if __name__ == "__main__":
    main(sys.argv[1])
