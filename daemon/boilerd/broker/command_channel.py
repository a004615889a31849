"""RQ's command channel, on which its tools and `Client.cancel` tell a worker to stop its job."""

from boilerd.broker import keys


def channel_of(worker_name: str) -> str:
    """The name of the worker's channel."""
    return keys.channel(worker_name)
