"""The application of the daemons whose metrics are scraped."""

import time
from pathlib import Path

from boilerd import ServeMux, SkipRetry, Task

mux = ServeMux()


@mux.handle("mail:send")
def send(task: Task) -> None:
    time.sleep(0.005)


@mux.handle("mail:fail")
def fail(task: Task) -> None:
    raise SkipRetry("no such address")


@mux.handle("mail:again")
def again(task: Task) -> None:
    raise RuntimeError("busy")


@mux.handle("mail:wait")
def wait(task: Task) -> None:
    while not Path(task.payload).exists():
        time.sleep(0.01)


mux.cron("* * * * * *", "mail:send", name="often")
