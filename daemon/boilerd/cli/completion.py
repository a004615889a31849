"""Answer a shell that completes a line; `known_names` has what the commands complete beside their options."""

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from boilerd.process.exit_status import OK

#: The shell's line, and whether it wants to complete or to learn how.
VARIABLE = "_BOILERD_COMPLETE"
#: Click's own takes what stands behind a colon for a word: it parts words in bash, and our task types have it.
_BASH = """\
%(complete_func)s() {
    mapfile -t COMPREPLY < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
%(complete_var)s=bash_complete "$1")
    [[ ${COMPREPLY[0]} ]] || COMPREPLY=()
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Reads the line as a whole, and answers with what comes behind the last colon."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one at it."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        self._word = words.pop() if words and not line[-1].isspace() else ""
        return words, self._word

    def format_completion(self, item: CompletionItem[str]) -> str:
        """The part of the value that takes the place of what bash has for the word."""
        value = self._word.partition("=")[2] if self._word.startswith("--") and "=" in self._word else self._word
        head, colon, _ = value.rpartition(":")
        is_parted = ":" in os.environ.get("COMP_WORDBREAKS", ":")
        return item.value.removeprefix(head + colon) if is_parted else item.value


def complete(command: click.Command) -> NoReturn:
    """Answer the shell, and exit."""
    add_completion_class(_Bash)
    if not os.environ[VARIABLE].endswith("_source"):
        logging.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(Exception):
        command.main(prog_name="boilerd", complete_var=VARIABLE, standalone_mode=False)
    sys.exit(OK)
