"""The controller's end of a worker."""

from __future__ import annotations

from pathlib import Path

from environments import HERE, Peer

from spoter_runtime.errors import BackendError
from spoter_toolkit.bench.worker.client import LineProcess, WorkerLost, worker_environment

REPLY_TIMEOUT_S = 480.0
FAILED = (BackendError, WorkerLost)  # from `ask`: the peer's engine failed, or its process did


class PeerProcess(LineProcess):
    """A live `peer.py`; nothing is loaded before it is asked. See there for the requests."""

    def __init__(self, python: Path, peer: Peer, model: Path, threads: int) -> None:
        """Start it.

        Args:
            python: the interpreter of the peer's environment.
            peer: one row of the result.
            model: the model's folder.
            threads: of the engine, and of the libraries under it.
        """
        command = [python, HERE / "peer.py", peer.engine, peer.name, model, str(threads)]
        super().__init__(command, environment=peer_environment(threads), timeout_s=REPLY_TIMEOUT_S)


def peer_environment(threads: int) -> dict[str, str]:
    """Return a worker's environment variables without those that hide a peer's modules, and peer.py's."""
    unwanted = {"PYTHONPATH", "PYTHONSAFEPATH"}
    kept = {name: value for name, value in worker_environment(threads).items() if name not in unwanted}
    return {"ORT_DISABLE_TELEMETRY": "1"} | kept
