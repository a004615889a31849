"""What a verdict consists of, as people and programs get it."""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from boilerd.verdict.facts import Facts

#: How many findings the sentence of a verdict has.
MOST_TOLD = 3


class Severity(enum.StrEnum):
    """How bad a finding is, the worst first."""

    #: The daemon does not do its work, or what it needs does not.
    FAULT = "fault"
    #: The daemon does not do its work at this moment, as it should.
    PASSING = "passing"
    #: Somebody should look: tasks wait for a person, or will.
    WARNING = "warning"
    #: Worth knowing when one looks; all is well.
    NOTE = "note"


#: What a verdict begins with whose worst finding is so bad.
_WORDS = {
    Severity.FAULT: "unhealthy",
    Severity.PASSING: "not ready",
    Severity.WARNING: "worth a look",
    Severity.NOTE: "healthy",
}


class Found(NamedTuple):
    """What a row of the table finds: a sentence, and a command, where the row's own does not do."""

    says: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table of findings.

    Attributes:
        kind: Its name.
        when: What is so then, for the documents.
        command: What shows more.
        find: Finds it in the facts.
    """

    kind: str
    severity: Severity
    when: str
    command: str
    find: Callable[[Facts], Iterable[Found]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should know.

    Attributes:
        kind: Its row in the table.
        says: A sentence, without a full stop.
        command: What shows more.
    """

    kind: str
    severity: Severity
    says: str
    command: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether all is well, in a word and in a sentence.

    Attributes:
        word: ``healthy``, ``worth a look``, ``not ready`` or ``unhealthy``.
        sentence: The word, and the worst findings.
        findings: All of them, the worst first.
    """

    word: str
    sentence: str
    findings: Sequence[Finding]

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> "Verdict":
        """The verdict that these findings make, which stand in their order."""
        word = _WORDS[findings[0].severity] if findings else _WORDS[Severity.NOTE]
        told = [finding.says for finding in findings[:MOST_TOLD]]
        rest = [f"and {len(findings) - MOST_TOLD:,} more"] if len(findings) > MOST_TOLD else []
        return cls(word, f"{word}: {'; '.join(told + rest)}" if told else word, findings)
