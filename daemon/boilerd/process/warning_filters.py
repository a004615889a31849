"""Keep warnings in the daemon's own modules and its libraries' from becoming errors, as PYTHONWARNINGS=error wants.

Such a filter is for the application's code: nobody there can mend Supervisor, and an exception in its loop leaves a
request unanswered.
"""

import warnings

#: Modules whose warnings are no concern of the application; the standard library's count for who called it.
_OURS = r"(boilerd|click|hiredis|msgspec|pythonjsonlogger|redis|rich|rq|setproctitle|supervisor)(\.|$)"


def spare_own_modules() -> None:
    """Ignore their warnings, whatever filters there are; call it again when the application may have set others."""
    warnings.filterwarnings("ignore", module=_OURS)
