"""completion: a script that lets the shell complete commands, options and file names."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_command

_INSTALL = {
    "bash": '# put this into ~/.bashrc:  eval "$(baichuan-audio completion bash)"',
    "zsh": '# put this into ~/.zshrc, after compinit:  eval "$(baichuan-audio completion zsh)"',
    "fish": "# run once:  baichuan-audio completion fish > ~/.config/fish/completions/baichuan-audio.fish",
}


def add_commands(commands: Any) -> None:
    """Put this file's command into the parser."""
    parser = add_command(
        commands, "completion", run, "Print a shell's completion script.", model=False, machine_readable=False
    )
    parser.add_argument("shell", choices=tuple(_INSTALL))


def run(arguments: argparse.Namespace) -> None:
    from .app import build_parser

    words = {name: _words(command) for name, command in _subparsers(build_parser()).items()}
    about = {name: command.description or "" for name, command in _subparsers(build_parser()).items()}
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell]
    print(f"{_INSTALL[arguments.shell]}\n{write(words, about)}")


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """Long options, and the fixed values of positional arguments."""
    words: list[str] = []
    for action in parser._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        if not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    return words


def _bash(words: dict[str, list[str]], about: dict[str, str]) -> str:
    cases = "\n".join(f"    {name}) words='{' '.join(options)}' ;;" for name, options in words.items())
    return f"""_baichuan_audio() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{" ".join(words)}' -- "$current"))
    return
  fi
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current"))
}}
complete -o filenames -F _baichuan_audio baichuan-audio"""


def _zsh(words: dict[str, list[str]], about: dict[str, str]) -> str:
    described = "\n".join(f"    '{name}:{_plain(about[name])}'" for name in words)
    cases = "\n".join(f"    {name}) compadd -- {' '.join(options)} ;;" for name, options in words.items())
    return f"""_baichuan_audio() {{
  local -a commands=(
{described}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case $words[2] in
{cases}
  esac
  _files
}}
compdef _baichuan_audio baichuan-audio"""


def _fish(words: dict[str, list[str]], about: dict[str, str]) -> str:
    lines = []
    for name, options in words.items():
        lines.append(f"complete -c baichuan-audio -n __fish_use_subcommand -f -a {name} -d '{_plain(about[name])}'")
        for option in options:
            flag = f"-l {option.removeprefix('--')}" if option.startswith("--") else f"-a {option}"
            lines.append(f"complete -c baichuan-audio -n '__fish_seen_subcommand_from {name}' {flag}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A description without the characters that a shell would take for its own."""
    return text.replace("'", "").replace(":", ",")
