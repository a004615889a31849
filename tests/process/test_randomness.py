"""Random numbers of workers that were forked from one parent."""

from pathlib import Path

import pytest

from boilerd import Client
from support import StartDaemon

APP = """
import random, sys, types
from boilerd import ServeMux

#: NumPy's legacy functions, as far as it matters here.
numpy_random = types.ModuleType("numpy.random")
generator = random.Random(1)
numpy_random.seed, numpy_random.random = generator.seed, generator.random
sys.modules["numpy.random"] = numpy_random
if {is_replaced}:
    numpy_random.seed = None

mux = ServeMux()

@mux.handle("draw")
def draw(task):
    task.logger.info("drawn", extra={{"numbers": [random.random(), numpy_random.random()]}})
"""


@pytest.mark.parametrize("is_replaced", [False, True], ids=["numpy", "numpy that takes no seed"])
def test_two_workers_draw_different_numbers(
    start_daemon: StartDaemon, client: Client, directory: Path, *, is_replaced: bool
) -> None:
    (directory / "draws.py").write_text(APP.format(is_replaced=is_replaced))
    env = {"BOILERD_APP": "draws:mux", "BOILERD_MAX_TASKS": "1"}
    daemon = start_daemon("--concurrency", "1", directory=directory, env=env)
    client.enqueue_many([("draw", None)] * 2)

    (first, second) = (daemon.wait_for("drawn", count=count)["numbers"] for count in (1, 2))

    assert first[0] != second[0]
    assert (first[1] != second[1]) is not is_replaced
    assert bool(daemon.lines("numpy.random could not be seeded, and may be the same in all workers")) is is_replaced
