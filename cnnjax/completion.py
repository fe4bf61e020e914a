"""A script that completes the words of `cnnjax` in bash and zsh."""

import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

SHELLS = ("bash", "zsh")
SCRIPT = """\
_cnnjax() {
  local words word="${COMP_WORDS[COMP_CWORD]}"
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="%s"
  else
    case "${COMP_WORDS[1]}" in
%s
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  case "${COMPREPLY[0]}" in *=) compopt -o nospace 2>/dev/null ;; esac
}
complete -o default -F _cnnjax cnnjax
"""


def options(module: str) -> list[str]:
    """The options that a command's help lists, those of recipes with their "="."""
    command = [sys.executable, "-m", module, "--help"]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    return sorted(set(re.findall(r"^ +(--[\w.-]+=?)", text, re.MULTILINE)))


def script(shell: str, words: Mapping[str, list[str]], modules: Mapping[str, str]) -> str:
    """The script of a shell.

    Args:
        shell: one of SHELLS.
        words: what may follow each word of the command; "" has what may stand first.
        modules: the modules of the trainer's commands, whose options are asked for.

    Raises:
        ValueError: another shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"completion is for {' and '.join(SHELLS)}, not {shell!r}")
    with ThreadPoolExecutor() as pool:
        found = dict(zip(modules, pool.map(options, modules.values())))
    following = {
        name: words.get(name, []) + found.get(name, []) for name in {**words, **found} if name
    }
    cases = [f'      {name}) words="{" ".join(more)}" ;;' for name, more in following.items()]
    zsh = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return zsh + SCRIPT % (" ".join([*words[""], *following]), "\n".join(cases))
