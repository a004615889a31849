"""Keeps OpenTelemetry from the daemons and commands that tests start, unless WITH_OPENTELEMETRY is set for them.

redis-py imports all of its SDK where that is installed, which makes each of their hundreds of starts cost half as much
again. With the variable this is the package that is installed.
"""

import os
import pkgutil

if not os.environ.get("WITH_OPENTELEMETRY"):
    raise ImportError("OpenTelemetry is kept from what the tests start; set WITH_OPENTELEMETRY=1 in its environment")
__path__ = pkgutil.extend_path(__path__, __name__)
