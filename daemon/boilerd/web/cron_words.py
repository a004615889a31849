"""A cron line in words, where it is one of those that people mostly write; nothing for the others."""

import re

_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NAMED = {
    "@yearly": "on 1 January at 00:00", "@annually": "on 1 January at 00:00",
    "@monthly": "on day 1 of each month at 00:00", "@weekly": "on Sundays at 00:00", "@daily": "each day at 00:00",
    "@midnight": "each day at 00:00", "@hourly": "each hour, at minute 0",
}  # fmt: skip


def in_words(spec: str) -> str:
    """Such as ``each day at 03:00``; empty: the line says it best."""
    if spec in _NAMED:
        return _NAMED[spec]
    if spec.startswith("@every "):
        return f"every {spec.removeprefix('@every ').strip()}"
    fields = spec.split()
    return _of_fields(*fields) if len(fields) == 5 else ""


def _of_fields(minute: str, hour: str, day: str, month: str, weekday: str) -> str:
    days = _days(day, month, weekday)
    if days is None:
        return ""
    if hour == "*":
        often = _often(minute)
        return f"{often} {days}".strip() if often else ""
    if minute.isdecimal() and hour.isdecimal():
        return f"{days or 'each day'} at {int(hour):02d}:{int(minute):02d}"
    if minute.isdecimal() and (step := re.fullmatch(r"\*/(\d+)", hour)):
        return f"every {step[1]} hours, at minute {int(minute)} {days}".strip()
    return ""


def _often(minute: str) -> str:
    if minute == "*":
        return "each minute"
    if step := re.fullmatch(r"\*/(\d+)", minute):
        return "each minute" if step[1] == "1" else f"every {step[1]} minutes"
    return f"each hour, at minute {int(minute)}" if minute.isdecimal() else ""


def _days(day: str, month: str, weekday: str) -> str | None:
    """On which days; empty: on all, None: that takes too many words."""
    if month != "*" or (day != "*" and weekday != "*"):
        return None
    if day.isdecimal():
        return f"on day {int(day)} of each month"
    if weekday == "1-5":
        return "on Mondays to Fridays"
    if re.fullmatch("[0-7]", weekday):
        return f"on {_DAYS[int(weekday)]}s"
    return "" if day == weekday == "*" else None
