"""Random numbers of forked children: without a new seed, all would draw the same ones.

Python seeds the functions of its `random` module at each fork by itself. Generators that the application made before
the fork, `random.Random()` and NumPy's `default_rng()`, nobody knows but the application.
"""

import logging
import sys

logger = logging.getLogger("boilerd.randomness")


def reseed() -> None:
    """In a forked child: give NumPy's own functions a new seed, if the application has imported them."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return
    try:
        numpy_random.seed()
    except Exception:  # the application has put another generator behind them
        logger.warning("numpy.random could not be seeded, and may be the same in all workers", exc_info=True)
