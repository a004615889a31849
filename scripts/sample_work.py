"""Work that shows what the dashboard shows: types that succeed, fail, take long, wait for each other, are periodic.

The daemon of `make web` serves the mux; run as a program it enqueues the first tasks.
"""

import random
import time

from boilerd import Client, ServeMux, Task

mux = ServeMux()


@mux.handle("email:deliver")
def deliver(task: Task) -> dict[str, object]:
    """Succeeds most of the time, and sometimes at the second attempt."""
    time.sleep(random.uniform(0.01, 0.4))
    if random.random() < 0.1:
        raise ConnectionError(f"mail-{random.randint(1, 9)}.example.com refused the connection")
    return {"delivered_to": task.payload["user"]["email"]}


@mux.handle("report:build")
def build(task: Task) -> str:
    """Takes long."""
    time.sleep(task.payload["seconds"])
    return "report.pdf"


@mux.handle("image:resize")
def resize(task: Task) -> None:
    """Never succeeds."""
    width, height = task.payload["size"]
    print(width // height)


@mux.handle("invoice:send")
def send(task: Task) -> None:
    """Enqueues others, as they say."""
    with Client.from_settings() as client:
        deliver_to(client, task.payload["user"])


@mux.handle("health:check")
def check_health(task: Task) -> None:
    """Runs every minute."""
    task.logger.info("all is well")


@mux.handle("cache:warm")
def warm(task: Task) -> None:
    """Runs every two minutes, and fails at every other tick."""
    if int(time.time() / 120) % 2:
        raise TimeoutError("the cache does not answer")


mux.cron("* * * * *", "health:check", name="health", retention=3600)
mux.cron("*/2 * * * *", "cache:warm", name="warm-cache", max_retries=0)
mux.cron("0 3 * * *", "report:build", {"seconds": 60}, name="nightly-report", timezone="Europe/Berlin")


def deliver_to(client: Client, user: int) -> None:
    """Enqueue an e-mail."""
    client.enqueue(
        "email:deliver", {"user": {"id": user, "email": f"user{user}@example.com"}, "api_key": "hidden on pages"},
        queue="critical", retention=3600,
    )  # fmt: skip


def main() -> None:
    """Enqueue a few of each."""
    with Client.from_settings() as client:
        for user in range(200):
            deliver_to(client, user)
        for number in range(5):
            client.enqueue("image:resize", {"size": [640, 0], "image": number}, max_retries=0)
            client.enqueue("invoice:send", {"user": number}, process_in=60 * (number + 1))
            client.enqueue("report:build", {"seconds": 20}, queue="low", concurrency_key="printer", retention=3600)
        client.enqueue("report:archive", {"of": "a type without a handler"}, queue="low", max_retries=1)
        client.enqueue("report:build", {"seconds": 1}, queue="nobody-serves-it")


if __name__ == "__main__":
    main()
