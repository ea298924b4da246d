"""Write the result of a benchmark as two files named by benchmark, processor and month: JSON and a page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spoter_runtime.files import write_text
from spoter_runtime.machine import cpu_model
from spoter_toolkit.bench.host.environment import environment
from spoter_toolkit.report.json_text import json_text
from spoter_toolkit.report.words import slug

RESULTS = Path(__file__).parent / "results"
SPEED_VARIABLES = ("OMP_WAIT_POLICY",)  # of the environment, where they were set for a measurement


def write_result(
    benchmark: str,
    title: str,
    method: str,
    lines: Iterable[str],
    values: dict[str, Any],
    *,
    folder: Path = RESULTS,
    processor: str | None = None,
) -> None:
    """Write ``<benchmark>-<processor>-<month>.json`` and ``.md``, and print the page's path.

    Args:
        benchmark: as files are named.
        title: of the page.
        method: how it was measured, in sentences; the command stands before them.
        lines: of Markdown.
        values: plain JSON values; the description of the machine is added to them.
        folder: that both are written to.
        processor: that was measured; None for the CPU.
    """
    machine = environment()
    name = result_name(benchmark, processor)
    head = (
        f"# {title}",
        "",
        f"On {processor or machine['cpu']}, {machine['usable_cores']} cores. `{typed_command()}`. {method}",
        "",
    )
    tail = ("", "```json", json_text(machine), "```", "")
    write_text(folder / f"{name}.json", json_text({**values, "environment": machine}) + "\n")
    write_text(folder / f"{name}.md", "\n".join((*head, *lines, *tail)))
    print(folder / f"{name}.md")


def result_name(benchmark: str, processor: str | None = None) -> str:
    """Return the name of a result's files, without their endings."""
    return f"{benchmark}-{slug(processor or cpu_model())}-{datetime.now(timezone.utc):%Y-%m}"


def typed_command() -> str:
    """Return this process's command line, with the names of files instead of the places where they lie."""
    words = [f"{name}={os.environ[name]}" for name in SPEED_VARIABLES if name in os.environ]
    words += ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    return " ".join([*words, *(Path(word).name or word for word in sys.argv[1:])])


def stored(
    path: Path,
    measure: Callable[[], Any],
    *,
    key: Any = None,
    is_final: Callable[[Any], bool] = lambda value: True,
) -> Any:
    """Return a step's value from its file, or measure it and store it there: a run that was stopped goes on.

    Args:
        path: the step's file.
        measure: returns plain JSON values.
        key: everything that the value depends on; a file with another key is measured again.
        is_final: tells whether a value may be stored; a step that failed is tried again by the next run.
    """
    key = json.loads(json.dumps(key))
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["key"] == key:
            return before["value"]
    print(f"measuring {path.stem}", file=sys.stderr, flush=True)
    value = json.loads(json.dumps(measure()))
    if is_final(value):
        write_text(path, json_text({"key": key, "value": value}) + "\n")
    return value


def spoter_kit(*arguments: object) -> Any:
    """Run one verb of the command in a process of its own, and return its JSON.

    Raises:
        subprocess.CalledProcessError: the verb failed; the reason is on stderr.
    """
    command = [sys.executable, "-m", "spoter_toolkit", *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
