"""The servers that a daemon has if it is told to, of metrics and of the dashboard: whether they can be.

What they need is imported here, before anything is forked, and only where the settings want it: few daemons have them,
and each start would take a millisecond longer.
"""

# ruff: noqa: PLC0415 - see above

from boilerd.settings.definitions import Settings


def check_extras(settings: Settings) -> None:
    """Raise BootError if a server is wanted and a library is missing that it needs."""
    if settings.metrics_listen:
        from boilerd.exporter import listening

        listening.check_extra(settings)
    if settings.web.enabled:
        from boilerd.web import serving

        serving.check_extra(settings)


def prepare(settings: Settings, gid: int | None, *, is_reload: bool) -> None:
    """Make sure that each can listen, if it is wanted.

    Args:
        settings: Those of the daemon.
        gid: The group that may ask at a path; None: none.
        is_reload: True where the daemon runs already, and may listen there itself.

    Raises:
        BootError: Nobody can.
        ConfigError: A setting is not allowed.
    """
    if settings.metrics_listen:
        from boilerd.exporter import listening

        listening.prepare(settings, gid, is_reload=is_reload)
    if settings.web.enabled:
        from boilerd.web import serving

        serving.prepare(settings, is_reload=is_reload)
