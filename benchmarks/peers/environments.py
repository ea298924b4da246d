"""The engines of engines/, each with an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from peer import engine_from

from spoter_toolkit.report.words import without_places

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONSTRAINTS = ROOT / "constraints.txt"

INSTALL_TIMEOUT_S = 480

# In the order of the result: the baselines, others with the same file, other ways, ours.
ENGINES = (
    "torch_cpu",
    "onnxruntime_stock",
    "openvino_cpu",
    "mnn_cpu",
    "tract_cpu",
    "ncnn_cpu",
    "executorch_cpu",
    "iree_cpu",
    "litert_cpu",
    "ours",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One row of the result.

    Attributes:
        what: its name on the page.
        engine: its file in engines/.
        requirements: of the environment that it shares with the engine's other peers.
        many: whether it answers clips of many lengths at once.
    """

    name: str
    what: str
    engine: Path
    requirements: tuple[str, ...]
    many: bool

    def environment(self, folder: Path) -> Path:
        """Return where its environment lies in the folder of all."""
        return folder / "environments" / self.engine.stem

    def python(self, folder: Path) -> Path:
        """Return its interpreter."""
        return self.environment(folder) / "bin" / "python"


def all_peers() -> dict[str, Peer]:
    """Return name → peer."""
    peers = {}
    for stem in ENGINES:
        file = HERE / "engines" / f"{stem}.py"
        engine = engine_from(file)
        for name, what in engine.PEERS.items():
            peers[name] = Peer(
                name=name,
                what=what,
                engine=file,
                requirements=engine.REQUIREMENTS,
                many=hasattr(engine, "many"),
            )
    return peers


def set_up(peer: Peer, folder: Path) -> str | None:
    """Make the environment where it is not there yet; return why it cannot be, None where it can."""
    environment = peer.environment(folder)
    ready = environment / "requirements.json"
    if ready.is_file() and tuple(json.loads(ready.read_text())) == peer.requirements:
        return None
    print(f"installing {', '.join(peer.requirements)}", flush=True)
    commands = (
        [sys.executable, "-m", "venv", environment],
        [
            *(peer.python(folder), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"),
            *("--constraint", CONSTRAINTS, *peer.requirements),
        ],
    )
    for command in commands:
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"not installed within {INSTALL_TIMEOUT_S} s"
        except subprocess.CalledProcessError as error:
            return f"not installed: {pip_reason(error.stderr)}"
    ready.write_text(json.dumps(peer.requirements))
    return None


def pip_reason(stderr: str) -> str:
    """Return the first error that pip reports."""
    lines = [line.strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return without_places((lines or stderr.strip().splitlines() or ["no reason given"])[0])[:300]
