"""The reference pages that are made from the code: the commands, the recipes, and every error."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime/spoter_runtime", "export/spoter_export", "toolkit/spoter_toolkit")


def write_generated_pages(folder: Path) -> None:
    """Write command.md, device-command.md, recipes.md and errors.md into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "command.md": command_page(),
        "device-command.md": device_page(),
        "recipes.md": recipes_page(),
        "errors.md": errors_page(),
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")


def command_page() -> str:
    """Return `spoter-kit`'s verbs with their arguments and options, as its own help has them."""
    from typer.main import get_command

    from spoter_toolkit.cli.app import app

    parts = [
        "# The command: spoter-kit\n",
        "This page is made from the command itself. `spoter-kit VERB --help` prints the same.\n",
        "Results go to stdout, everything else to stderr. `--json` prints one JSON object. Nothing is "
        "overwritten without `--force`. Every verb takes `-v` (all tables) and `-q` (only errors).\n",
        "| exit code | meaning |\n|---|---|\n| 0 | done |\n| 1 | an error, with one message |\n"
        "| 2 | a wrong command line |\n| 3 | it ran, and the answer is no |\n| 130 | Ctrl-C |\n",
    ]
    for words, verb in _verbs(get_command(app), ()):
        parts.append(f"## {' '.join(words)}\n")
        parts.append(f"{_paragraphs(verb.help)}\n")
        parts.append(f"```text\nspoter-kit {' '.join(words)} {' '.join(_usage(verb))}\n```\n")
        if verb.epilog:
            shown = "\n".join(re.findall(r"`(.+?)`", verb.epilog))
            parts.append(f"```text\n{shown}\n```\n")
        rows = [row for row in map(_row, verb.params) if row]
        parts.append(
            "| argument or option | default | what it does |\n|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


def _verbs(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "commands", None):
            yield from _verbs(child, (*words, name))
        else:
            yield (*words, name), child


def _usage(verb: Any) -> Iterator[str]:
    yield "[OPTIONS]"
    for one in verb.params:
        if one.param_type_name == "argument":
            name = one.metavar or one.name.upper()
            yield name if one.required else f"[{name}]"


def _row(one: Any) -> str:
    if one.name in ("help", "verbose", "quiet"):
        return ""
    names = (
        [one.metavar or one.name.upper()]
        if one.param_type_name == "argument"
        else [*one.opts, *one.secondary_opts]
    )
    default = one.default
    shown = (
        ""
        if default in (None, False, "", ()) or callable(default) or not _plain(default)
        else str(getattr(default, "value", default))
    )
    if one.param_type_name == "argument" and one.required:
        shown = "required"
    described = (one.help or "").replace("|", "\\|")
    return f"| {' '.join(f'`{name}`' for name in names)} | {shown} | {described} |"


def _plain(value: Any) -> bool:
    return isinstance(getattr(value, "value", value), str | int | float | bool | Path)


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def device_page() -> str:
    """Return the help of the two commands that need no toolkit."""
    parts = [
        "# The device's commands\n",
        "These two commands come with the runtime and the exporter. They need no torch. "
        "This page is made from their help.\n",
    ]
    for module, verbs in (
        ("spoter_runtime", ("predict", "verify", "tune", "doctor")),
        ("spoter_export", ("",)),
    ):
        parts.append(f"## python -m {module}\n")
        for verb in verbs:
            command = [sys.executable, "-m", module, *([verb] if verb else []), "--help"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            parts.append(f"### {verb}\n" if verb else "")
            parts.append(f"```text\n{done.stdout.rstrip()}\n```\n")
    return "\n".join(parts)


def recipes_page() -> str:
    """Return the recipes as they lie in the package."""
    folder = ROOT / "toolkit" / "spoter_toolkit" / "training" / "recipes"
    parts = [
        "# Recipes\n",
        "A recipe is a TOML file with the settings of a training. Each one below comes with the package: "
        "`spoter-kit train --recipe NAME`. A path to a file of your own works too. `--set KEY=VALUE` changes "
        "one setting. All settings: [TrainConfig](python-toolkit.md).\n",
    ]
    for path in sorted(folder.glob("*.toml")):
        parts.append(f"## {path.stem}\n\n```toml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n")
    return "\n".join(parts)


class _Error(NamedTuple):
    kind: str
    message: str
    fix: str


def errors_page() -> str:
    """Return every error that the code raises on purpose, by kind, with its fix."""
    found = all_errors()
    described = {name: text.split("\n")[0] for name, text in _kinds().items()}
    parts = [
        "# Every error\n",
        f"This page is made from the code: {len(found)} errors. `…` stands for what the message fills in. "
        "The [troubleshooting page](../troubleshooting.md) has the frequent ones, with the reason.\n",
    ]
    for kind in dict.fromkeys(error.kind for error in found):
        parts.append(f"## {kind}\n\n{described.get(kind, '')}\n\n| message | fix |\n|---|---|")
        parts += [f"| {_cell(e.message)} | {_cell(e.fix)} |" for e in found if e.kind == kind]
        parts.append("")
    return "\n".join(parts)


def all_errors() -> list[_Error]:
    """Return every error that the code makes, sorted by kind and message."""
    return sorted({error for package in PACKAGES for error in _errors_in(ROOT / package)})


def _cell(text: str) -> str:
    for old, new in (
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("<", "&lt;"),
        ("*", "\\*"),
        ("_", "\\_"),
        ("`", ""),
        ("\n", " "),
    ):
        text = text.replace(old, new)
    return text.strip()


def _kinds() -> dict[str, str]:
    from spoter_runtime import errors

    return {
        name: value.__doc__ or ""
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SpoterError)
    }


def _errors_in(package: Path) -> Iterator[_Error]:
    kinds = _kinds()
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds and node.args:
                message = _text(node.args[0])
                fix = next((_text(k.value) for k in node.keywords if k.arg == "fix"), "")
                if message.replace("…", "").strip(" :"):
                    yield _Error(node.func.id, message, fix)


def _text(node: ast.expr) -> str:
    """Return a string expression as its reader sees it, with … for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…"
