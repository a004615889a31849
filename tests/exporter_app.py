"""The application of the daemons whose metrics are scraped."""

import time

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


@mux.handle("mail:sleep")
def sleep(task: Task) -> None:
    time.sleep(task.payload)


mux.cron("* * * * * *", "mail:send", name="often")
