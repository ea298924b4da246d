from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demo_tells_the_whole_story(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spoter_toolkit", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # 3 would mean top-1 below 0.90 on unseen signers
    assert "8 of 8" in done.stderr
    assert "parity holds" in done.stdout
    assert ": verified" in done.stdout
    assert done.stdout.count("\n  spoter-kit ") == 5
    bundle = json.loads((tmp_path / "demo" / "demo.spoter" / "bundle.json").read_text(encoding="utf-8"))
    assert bundle["provenance"]["data"]["synthetic"] is True
    card = (tmp_path / "demo" / "demo.spoter" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Trained on synthetic signing" in card
    assert (tmp_path / "demo" / "bench" / "bench.json").is_file()
