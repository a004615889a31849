"""What a forked child makes anew of its parent's."""

import pytest

from support import run_python


@pytest.mark.parametrize(
    "set_up",
    [
        "sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8')",
        "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')",
        "sys.stdout = codecs.getwriter('utf-8')(sys.stdout.buffer)",
        "sys.stdin.detach(); sys.stderr.detach()",
        "sys.stdout.close()",
        "sys.stdout = sys.stderr = None",
        "log.addHandler(logging.StreamHandler(io.TextIOWrapper(io.BytesIO())))",
        "log.addHandler(logging.StreamHandler(gzip.open(os.devnull, 'wt')))",
        "log.addHandler(logging.lastResort)",
        "log.addHandler(type('Own', (logging.StreamHandler,), {'__init__': logging.Handler.__init__})())",
    ],
)
def test_whatever_streams_an_application_has_its_children_can_be_forked(set_up: str) -> None:
    found = run_python(f"""
import codecs, gzip, io, logging, os, sys
from boilerd.process.copied_locks import renew_locks

log = logging.getLogger()
{set_up}
pid = os.fork()
if not pid:
    try:
        renew_locks()
        os._exit(0)
    finally:
        os._exit(1)
os.write(1, b"%d" % os.waitpid(pid, 0)[1])
os._exit(0)
""")

    assert found == 0
