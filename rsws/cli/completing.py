"""What the shell completes. What can't be found out is not completed, and nothing is ever said.

Typer finds what may come next; the scripts are rsws' own. Typer's offer files wherever nothing else is found, bash's
splits a channel at its colons, and that for zsh evaluates what is found: the names of channels are other people's.
"""

from __future__ import annotations

import os
import re
import shlex
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typer._completion_classes import ZshComplete

FILES_CODE = 9
"""The exit code by which a shell is told to complete files itself."""

_BASH = """
_rsws_completion() {
    local found
    found=$(_RSWS_COMPLETE=bash _RSWS_WORD="$2" _TYPER_COMPLETE_ARGS="${COMP_LINE:0:COMP_POINT}" "$1" 2> /dev/null)
    case $? in
        0) [[ -z $found ]] || mapfile -t COMPREPLY <<< "$found" ;;
        9) compopt -o default ;;
    esac
}

complete -F _rsws_completion rsws
"""
_ZSH = """
#compdef rsws

_rsws_completion() {
    local found
    local -a lines
    found=$(_RSWS_COMPLETE=zsh _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" ${~words[1]} 2> /dev/null)
    case $? in
        0) lines=("${(@f)found}"); [[ -z $found ]] || _describe rsws lines ;;
        9) compset -P '--*='; _files ;;
    esac
}

if [[ ${funcstack[1]} = _rsws ]]; then  # it was loaded to complete, and not evaluated
    _rsws_completion "$@"
else
    compdef _rsws_completion rsws
fi
"""
_FISH = """
function _rsws_completion
    set -l found (env _RSWS_COMPLETE=fish _TYPER_COMPLETE_ARGS=(commandline -cp | string collect) rsws 2> /dev/null)
    switch $status
        case 0
            string join \\n -- $found
        case 9
            set -l option (string match -r -- '^--[^=]*=' (commandline -ct); or echo)
            string join \\n -- $option(__fish_complete_path (string replace -- "$option" '' (commandline -ct)))
    end
end

complete --command rsws --no-files --arguments '(_rsws_completion)'
"""
SHELLS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

_REDIRECTION = re.compile(r"[0-9&]*[<>]{1,2}[&|]?")
_FOR_BASH = re.compile(r"[^\w@%+=:,./*-]", re.ASCII)
"""What bash wants a backslash before."""
_files_go: ContextVar[bool | None] = ContextVar("rsws_files_go", default=None)
"""Whether files go where the cursor is; None where a script asks that is not rsws' own."""


def use_own_scripts() -> None:
    """Have typer's ``--install-completion`` and ``--show-completion`` give the scripts of rsws."""
    with suppress(ImportError, AttributeError):  # typer promises neither, and no other command is to need them
        from typer._completion_shared import _completion_scripts

        _completion_scripts |= {name: text.replace("%", "%%") for name, text in SHELLS.items()}


def profiles(incomplete: str) -> list[str]:
    """Return the names of profiles that begin like that."""
    from rsws.errors import RswsError
    from rsws.profiles import read_profiles

    try:
        return [name for name in read_profiles().of if name.startswith(incomplete)]
    except RswsError:
        return []


def files(incomplete: str) -> list[str]:
    """Note that files go here, which the shell completes."""
    _files_go.set(True)
    return []


def is_for_own_script() -> bool:
    """Whether what is found goes to one of ``SHELLS``, which evaluate nothing."""
    return _files_go.get() is not None


def answer(group: Any, shell: str) -> tuple[str, int]:
    """Return what may come next on the command line that the shell's script has put into the environment.

    Args:
        group: The group of all commands.
        shell: One of ``SHELLS``.

    Returns:
        The text for the script, and the exit code.
    """
    token = _files_go.set(False)
    try:
        from typer._completion_classes import ZshComplete

        return _answer(ZshComplete(group, {}, "rsws", ""), shell)
    except Exception:  # whatever it is, the line that is being typed is no place to say so
        return "", 0
    finally:
        _files_go.reset(token)


def _answer(typer: ZshComplete, shell: str) -> tuple[str, int]:
    args, word = typer.get_completion_args()
    args, is_file = _without_redirections(args)
    option = word[: word.find("=") + 1] if word.startswith("--") else ""
    _files_go.set(is_file)
    args = [os.path.expandvars(os.path.expanduser(each)) for each in args]
    items = [] if is_file else typer.get_completions(args, word)
    if _files_go.get():
        return "", FILES_CODE
    found = {option + item.value: item.help or "" for item in items if item.value.isprintable()}
    if shell == "bash":
        return "".join(f"{each}\n" for each in _for_bash(found, word)), 0
    if shell == "zsh":
        escaped = {re.sub(r"([:\\])", r"\\\1", each): help for each, help in found.items()}
        return "".join(f"{each}:{_one_line(help)}\n" if help else f"{each}\n" for each, help in escaped.items()), 0
    return "".join(f"{each}\t{_one_line(help)}\n" for each, help in found.items()), 0


def _without_redirections(args: list[str]) -> tuple[list[str], bool]:
    """Return the arguments alone, and whether the name of a file comes next: bash leaves ``< FILE`` in."""
    left: list[str] = []
    is_file = False
    for each in args:
        if is_file:
            is_file = False
        elif (match := _REDIRECTION.match(each)) is not None:
            is_file = match.end() == len(each)
        else:
            left.append(each)
    return left, is_file


def _for_bash(found: dict[str, str], word: str) -> list[str]:
    """Return what stands in the place of the word as bash has it, which is what follows a colon or an equals sign."""
    replaced = os.environ.get("_RSWS_WORD", "")
    kept = word.removesuffix(replaced) if word.endswith(replaced) else ""
    values = [each.removeprefix(kept) for each in found]
    try:
        shlex.split(os.environ.get("_TYPER_COMPLETE_ARGS", ""))
    except ValueError:  # within quotes, where not all can be written
        return [each for each in values if not re.search(r"[\"'$\\`!]", each)]
    return [_FOR_BASH.sub(r"\\\g<0>", each) for each in values]


def _one_line(help: str) -> str:
    return " ".join(help.replace("\\[", "[").split())
