"""Durations, moments and sizes as people write them."""

import re
from datetime import UTC, datetime
from decimal import Decimal

from boilerd.errors import shown

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII)
#: The longest duration, 68 years: the most that a timer of 32 bits and a field of Redis can hold.
LONGEST_S = 2**31 - 1
_SIZE = re.compile(r"(\d+) ?([KMG]?)i?B?", re.IGNORECASE)


class Duration(float):
    """Seconds; reads ``500ms``, ``30s``, ``5m``, ``1h30m``, ``7d`` or a number of seconds."""

    hint = "a duration such as 30s, 1h30m or 7d, or a number of seconds"

    @classmethod
    def parse(cls, value: object) -> "Duration":
        """Make a duration from text or a number; raises ValueError otherwise."""
        seconds = _seconds(value) if isinstance(value, str) else value
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds >= 0:
            raise ValueError(f"{shown(value)} is not {cls.hint}")
        if seconds > LONGEST_S:
            raise ValueError(f"{shown(value)} is too long; the longest duration is 68 years, or {LONGEST_S // 86400}d")
        return cls(seconds)

    def __str__(self) -> str:
        """The shortest form that reads back as the same."""
        whole = int(self)
        if self.is_integer() and whole >= 60:
            hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
            return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n)
        return f"{whole}s" if self.is_integer() else f"{Decimal(repr(float(self))):f}s"


def lasting(seconds: float) -> str:
    """About how long something lasts, for people: two units at most, and no seconds from ten minutes on.

    So what goes on is told by the same words for a while: ``45s``, ``3m20s``, ``12m``, ``1h5m``, ``302d13h``.
    """
    if not seconds < LONGEST_S:
        return "years"
    rest = max(round(seconds), 1)
    if rest >= 600:
        rest -= rest % 60
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts += [f"{count}{unit}" if count else ""] if count or parts else []
    return "".join(parts[:2])


def in_utc(moment: datetime) -> datetime:
    """A moment that has a zone, as it can be kept; raises ValueError where UTC or a float has no such year."""
    try:
        return datetime.fromtimestamp(moment.timestamp(), UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(f"{moment} is too far away") from error


def _seconds(text: str) -> float | None:
    if match := _DURATION.fullmatch(text) if text else None:
        days, hours, minutes, seconds, milliseconds = (float(group or 0) for group in match.groups())
        return days * 86400 + hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII) else None


class Size(int):
    """Bytes; reads ``512M``, ``2G`` or a number of bytes."""

    hint = "a size such as 512M or 2G, or a number of bytes"

    @classmethod
    def parse(cls, value: object) -> "Size":
        """Make a size from text or a number; raises ValueError otherwise."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
            return cls(int(match[1]) * 1024 ** " KMG".index(match[2].upper() or " "))
        raise ValueError(f"{shown(value)} is not {cls.hint}")

    def __str__(self) -> str:
        """The shortest form that reads back as the same."""
        for unit, bits in (("G", 30), ("M", 20), ("K", 10)):
            if self and self % (1 << bits) == 0:
                return f"{self >> bits}{unit}"
        return f"{int(self)}"
