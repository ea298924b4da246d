"""Write what a benchmark has found as two files named by case, processor and month: JSON, and a page."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spoter_runtime.files import write_text
from spoter_runtime.machine import cpu_model
from spoter_toolkit.bench.host.environment import slug
from spoter_toolkit.bench.json_text import json_text

RESULTS = Path(__file__).parent / "results"


def write_result(
    case: str,
    found: dict[str, Any],
    page: str,
    where: dict[str, Any],
    *,
    folder: Path = RESULTS,
    processor: str | None = None,
) -> None:
    """Write ``<case>-<processor>-<month>.json`` and ``.md``, and print the page's path.

    Args:
        case: what was measured, as a name of files has it.
        found: plain JSON values; the environment is added to them.
        page: Markdown.
        where: from `spoter_toolkit.bench.host.environment.environment`.
        folder: that they are written to.
        processor: what was measured; None for the CPU.
    """
    name = result_name(case, processor)
    write_text(folder / f"{name}.json", json_text(found | {"environment": where}) + "\n")
    write_text(folder / f"{name}.md", page)
    print(folder / f"{name}.md")


def result_name(case: str, processor: str | None = None) -> str:
    """Return the name of a result's files, without what they end with."""
    return f"{case}-{slug(processor or cpu_model())}-{datetime.now(timezone.utc):%Y-%m}"


def environment_lines(where: dict[str, Any]) -> tuple[str, ...]:
    """Return the environment as the last lines of a page."""
    return ("```json", json.dumps(where, indent=2), "```", "")
