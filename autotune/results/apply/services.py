"""What starts llama-server when it is needed: systemd, llama-swap."""

import shlex

from autotune.errors import printable
from autotune.results.apply.server import memlock_note
from autotune.results.apply.setup import Applied, Setup, comment, options
from autotune.results.apply.text import holding, unit_word
from autotune.results.apply.yaml_text import Lines, dump

_LONGEST_DISPLAY_NAME = 128  # `name` in config-schema.json of llama-swap, 2026.


def systemd_unit(setup: Setup) -> Applied:
    """A unit of the user's own manager; of the system's where memory is locked.

    A user's manager may lock no more than its own limit, 8 MiB as a rule, and cannot raise it.

    Raises:
        ConfigError: systemd takes no program at this path.
    """
    launch = setup.launch
    lines = [
        "[Unit]",
        f"Description=llama-server with {setup.name}",
        "After=network.target",
        "",
        "[Service]",
        f"ExecStart={_exec_start(setup)}",
        "Restart=on-failure",
        "RestartSec=5",
        *_of_system(setup),
        "",
        "[Install]",
        f"WantedBy={'multi-user' if setup.locked else 'default'}.target",
    ]
    above = comment(setup, "#", _enabling(setup), dialect=launch.dialect, unsaid=launch.unsupported)
    return Applied(text=above + "\n".join(lines) + "\n", unsaid=launch.unsupported)


def _exec_start(setup: Setup) -> str:
    # systemd's own rule for a program's path, string_is_safe() in basic/string-util.c.
    path = holding(setup.starts_with[0], "systemd", forbidden="'\"\\")
    program = [unit_word(path, program=True), *map(unit_word, setup.starts_with[1:])]
    arguments = [
        " ".join(map(unit_word, option.words)) for option in options(setup.launch, setup.program)
    ]
    return " \\\n    ".join([" ".join(program), *arguments])


def _of_system(setup: Setup) -> list[str]:
    if not setup.locked:
        return []
    user = [f"User={setup.user}"] if setup.user else []
    return [*user, "LimitMEMLOCK=infinity"]


def _enabling(setup: Setup) -> list[str]:
    missing = "llama-server was not found here: write its absolute path behind ExecStart="
    notes = [] if setup.installed else [missing]
    if setup.locked:
        return [
            *notes,
            "A unit of the system: a user's own may not raise the limit of locked memory.",
            "Use: save it as /etc/systemd/system/llama-server.service, then",
            "sudo systemctl daemon-reload && sudo systemctl enable --now llama-server",
        ]
    return [
        *notes,
        "Use: save it as ~/.config/systemd/user/llama-server.service, then",
        "systemctl --user daemon-reload && systemctl --user enable --now llama-server",
        "To keep it when you log out: loginctl enable-linger",
    ]


def llama_swap(setup: Setup) -> Applied:
    """An entry for llama-swap's config.yaml.

    Raises:
        ConfigError: a value has a line break, or is no text.
    """
    launch = setup.launch
    words = [[*setup.starts_with], ["--port", "${PORT}"]]
    words += [list(option.words) for option in options(launch, setup.program)]
    entry: dict[str, object] = {"cmd": Lines("\n".join(map(_line, words)) + "\n")}
    if setup.profile.model:
        name = _no_macro(printable(setup.profile.model))
        entry = {"name": name[:_LONGEST_DISPLAY_NAME], **entry}
    use = [*memlock_note(setup), "Use: put the entry below models: in llama-swap's config.yaml"]
    above = comment(setup, "#", use, dialect=launch.dialect, unsaid=launch.unsupported)
    text = _no_macro(above) + dump({"models": {setup.name: entry}})
    return Applied(text=text, unsaid=launch.unsupported)


def _line(words: list[str]) -> str:
    """Words as llama-swap's shell lexer reads them; only ${PORT} is a macro."""
    if words == ["--port", "${PORT}"]:
        return " ".join(words)
    # Between two quotations ${ is no macro, and is still $ and { in one word.
    return shlex.join(holding(word, "llama-swap") for word in words).replace("${", "$''{")


def _no_macro(text: str) -> str:
    """A text for people; older versions replace macros in comments too."""
    return text.replace("${", "$ {")
