"""Make a function a verb: ``-v`` and ``-q`` behind it, an example below its help, near names for typos."""

from __future__ import annotations

import inspect
import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, Final, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from spoter_runtime.errors import UsageError, nearest
from spoter_toolkit.cli.console import INTERRUPTED, Loudness, is_quiet, say, set_loudness

VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print all tables.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors; the exit code answers.")]

# Words that people type, and the command that they mean.
_MEANT: Final = {
    **{"benchmark": "bench", "evaluate": "eval", "test": "eval", "convert": "export"},
    **{"infer": "predict", "recognise": "predict", "recognize": "predict", "check": "verify"},
    **{"help": "--help", "version": "--version"},
}


class _Words:
    """What verbs and groups share: a help without types of flags, and one message about wrong words."""

    def get_params(self, ctx: typer.Context) -> list[Any]:
        """Return the parameters, and --help; none shows ``<bool>``: that takes the room of the help."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for one in parameters:
            if getattr(one, "is_flag", False):
                one.metavar = ""
        return [*parameters]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Parse the words behind the verb or the group.

        Raises:
            UsageError: there is no such option, or it does not take this value.
        """
        typed = [*args]  # the parser empties the list
        try:
            return list(super().parse_args(ctx, args))  # type: ignore[misc]
        except Exception as error:
            if wrong := _usage_error(ctx, error, typed):
                raise wrong from error
            raise


class Verb(_Words, TyperCommand):  # type: ignore[misc]
    """A verb whose wrong words end in one message, with the nearest option to one that it does not have."""


class Verbs(_Words, TyperGroup):  # type: ignore[misc]
    """Verbs in the order of the work; a wrong one gets the nearest, also from another group."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names in the order of the work: Typer lists groups last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: {"data": 0, "landmarker": 1}.get(name, 2))

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """Return the verb of the first word.

        Raises:
            UsageError: there is no such verb.
        """
        if args[0] not in self.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise self._unknown(ctx, args[0], args[1:])
        return super().resolve_command(ctx, args)

    def _unknown(self, ctx: typer.Context, word: str, others: list[str]) -> UsageError:
        root: Any = ctx.find_root().command
        known = {name: _path(ctx, name) for name in self.commands}
        for name, command in root.commands.items():
            known.setdefault(name, f"spoter-kit {name}")
            for inner in getattr(command, "commands", {}):
                known.setdefault(inner, f"spoter-kit {name} {inner}")
        known |= {typed: f"spoter-kit {meant}" for typed, meant in _MEANT.items() if typed not in known}
        wrong = f"{_path(ctx)} has no verb {word!r}"
        if word in known:
            return UsageError(wrong, fix=" ".join((known[word], *map(shlex.quote, others))))
        if near := nearest(word, known):
            fix = " ".join((known[near[0]], *map(shlex.quote, others)))
            return UsageError(f"{wrong}; did you mean {near[0]!r}?", fix=fix)
        return UsageError(f"{wrong}; there are {', '.join(self.list_commands(ctx))}")


def _usage_error(ctx: typer.Context, error: Exception, typed: Sequence[str]) -> UsageError | None:
    """Return an error of the command line's parser as one of ours; None for any other.

    By their names: typer has its own copy of click's errors since 0.29.
    """
    kind = type(error).__name__
    if kind == "NoSuchOption":
        name = str(getattr(error, "option_name", error))
        options = [option for one in ctx.command.get_params(ctx) for option in one.opts]
        known = sorted(option for option in options if option.startswith("--"))
        near = nearest(name.lstrip("-"), [option.lstrip("-") for option in known])
        if not near:
            return UsageError(f"{_path(ctx)} has no option {name}", fix=f"{_path(ctx)} --help lists them")
        near = [f"--{near[0]}"]
        words = [near[0] + word[len(name) :] if word.partition("=")[0] == name else word for word in typed]
        hint = f"did you mean {near[0]}?"
        return UsageError(
            f"{_path(ctx)} has no option {name}; {hint}", fix=f"{_path(ctx)} {shlex.join(words)}"
        )
    words_of = getattr(error, "format_message", None)
    if kind == "NoArgsIsHelpError" or words_of is None or getattr(error, "exit_code", 0) != 2:
        return None
    said, parameter = str(words_of()).rstrip("."), getattr(error, "param", None)
    said = said[:1].lower() + said[1:]
    if kind == "BadParameter" and parameter is not None:
        return _wrong_value(ctx, parameter, said, typed)
    if kind == "MissingParameter":
        said = f"{parameter.metavar or parameter.name} is missing" if parameter is not None else said
    elif kind == "BadOptionUsage" and "requires" in said:
        said = f"{getattr(error, 'option_name', '')} expects a value behind it"
    elif more := re.search(r"unexpected extra arguments?.*\((.*)\)", said):
        said = f"expected no more words, got {more[1]}"
    return UsageError(f"{_path(ctx)}: {said}", fix=f"{_path(ctx)} --help")


def _wrong_value(ctx: typer.Context, parameter: Any, said: str, typed: Sequence[str]) -> UsageError:
    """Return the error of a value that is no choice or no number, with the command that has the nearest.

    The types are those of the verb's function: typer's own differ between its versions.
    """
    said_of = re.search("'([^']*)' is not", said.rpartition(": ")[2])  # the parser's words about an argument
    got, place = said_of[1] if said_of else "", None
    for i, (word, following) in enumerate(zip(typed, [*typed[1:], ""], strict=True)):
        option, given, value = word.partition("=")
        if option in parameter.opts:
            got, place = (value, i) if given else (following, i + 1)
    if place is None:
        place = typed.index(got) if got in typed else None
    run: Any = ctx.command.callback
    annotation, info, *_ = get_args(run.__annotations__[parameter.name])
    expected, right = _expected(annotation, info, got)
    fix = f"{_path(ctx)} --help"
    if right and place is not None:
        words = [*typed]
        words[place] = words[place].removesuffix(got) + right
        fix = f"{_path(ctx)} {shlex.join(words)}"
    name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.metavar
    return UsageError(f"{_path(ctx)}: {name}: expected {expected}, got {got!r}", fix=fix)


def _expected(annotation: Any, info: Any, got: str) -> tuple[str, str]:
    """Return what a parameter expects, in words, and the value that is nearest to what it got, if any is."""
    parts = (annotation, *get_args(annotation))  # Literal[…], or Literal[…] | None
    if choices := [choice for part in parts for choice in get_args(part) if isinstance(choice, str)]:
        return " or ".join((", ".join(choices[:-1]), choices[-1])), (nearest(got, choices) or [""])[0]
    is_whole = int in parts
    least, most = info.min, info.max
    words = "a whole number" if is_whole else "a number"
    if least is not None or most is not None:
        words += f" of at least {least}" if most is None else f", {least} to {most}"
    number = re.match(r"-?\d+([.,]\d+)?", got)  # 1,5 and 20min are meant as numbers
    if number is None:
        return words, ""
    value = float(number[0].replace(",", "."))
    value = value if least is None else max(value, least)
    value = value if most is None else min(value, most)
    return words, f"{int(value) if is_whole else value:g}"


def _path(ctx: typer.Context, *more: str) -> str:
    """Return the words of a command, without the way in which Python was started."""
    words = ctx.command_path.removeprefix(str(ctx.find_root().info_name)).split()
    return " ".join(("spoter-kit", *words, *more))


def add(
    app: typer.Typer,
    run: Callable[..., Any],
    name: str,
    *examples: str,
    panel: str | None = None,
    cls: type[Verb] = Verb,
) -> None:
    """Add a function to an app as a verb, with examples below its help; each is one command."""
    title = "Example:" if len(examples) == 1 else "Examples:"
    epilog = "\n\n".join((title, *(f"`{example}`" for example in examples)))
    app.command(name, cls=cls, rich_help_panel=panel, epilog=epilog)(verb(run))


def verb(run: Callable[..., Any]) -> Callable[..., None]:
    """Return a verb that takes ``-v`` and ``-q`` too, for Typer to make a command of.

    Behind the verb or before it they mean the same; behind it they win.
    """
    signature = inspect.signature(run, eval_str=True)

    @wraps(run)
    def command(*, verbose: bool, quiet: bool, **options: Any) -> None:
        choose_loudness(verbose=verbose, quiet=quiet)
        with warnings.catch_warnings():
            if is_quiet():
                warnings.simplefilter("ignore")
            try:
                run(**options)
            except KeyboardInterrupt:  # here: typer ends without a word
                say("interrupted")
                raise SystemExit(INTERRUPTED) from None

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("verbose", VerboseOption), ("quiet", QuietOption))
    ]
    taken = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in _all(signature)]
    command.__signature__ = signature.replace(parameters=[*taken, *added])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*taken, *added)}
    return command


def choose_loudness(*, verbose: bool, quiet: bool) -> None:
    """Set how much is printed, where an option says so.

    Raises:
        UsageError: both options are given.
    """
    if verbose and quiet:
        raise UsageError("--verbose and --quiet: expected one of them", fix="leave one out")
    if verbose or quiet:
        set_loudness(Loudness.VERBOSE if verbose else Loudness.QUIET)


def _all(signature: inspect.Signature) -> Sequence[inspect.Parameter]:
    parameters: Mapping[str, inspect.Parameter] = signature.parameters
    return list(parameters.values())
