"""Tell our variables from those that Kubernetes and Docker make for a service or a container named boilerd.

A Service `boilerd` or `boilerd-web` puts its addresses into every pod of its namespace, and a link of Docker's does the
same; none of them is meant for the settings. Name and value are looked at, so that a misspelt setting is still told.
"""

import re
from collections.abc import Mapping

_LEAD = r"BOILERD_(?:\w+_)?"
#: Form of a name → form of its value.
_FORMS = {
    rf"{_LEAD}SERVICE_HOST": r".*",
    rf"{_LEAD}SERVICE_PORT(?:_\w+)?": r"\d+",
    rf"{_LEAD}PORT(?:_\d+_(?:TCP|UDP|SCTP))?": r"(?:tcp|udp|sctp)://.*",
    rf"{_LEAD}PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)": r".*",
    rf"{_LEAD}NAME": r"/.+/.+",
    rf"{_LEAD}ENV_\w+": r".*",
}


def service_variables(environ: Mapping[str, str]) -> list[str]:
    """The names of those that there are, sorted."""
    return sorted(name for name, value in environ.items() if name.startswith("BOILERD_") and _is_one(name, value))


def _is_one(name: str, value: str) -> bool:
    return any(
        re.fullmatch(form, name, re.ASCII) and re.fullmatch(values, value, re.DOTALL) for form, values in _FORMS.items()
    )
