"""The application on Ray Serve: a local cluster of two replicas, one of which is killed under load."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from spoter_runtime.errors import ConfigError, is_installed
from spoter_toolkit.serving.on_ray import build

# A process of its own: Ray's threads and sockets outlive it in the test's.
_KILLED_UNDER_LOAD = """
import json, os, signal, socket, sys, threading, time
import psutil, ray
from ray import serve
from spoter_toolkit.bench.url import Target, open_loop
from spoter_toolkit.serving.on_ray import build

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(build({"bundles": sys.argv[1], "backend": "ort-cpu", "budget_ms": "10000"}))
target = Target(f"http://127.0.0.1:{port}", (9, 30, 60))

def replicas():
    family = psutil.Process().children(recursive=True)
    return [one.pid for one in family if any("ServeReplica" in word for word in one.cmdline())]

before, found = replicas(), []
load = threading.Thread(target=lambda: found.append(open_loop(target, rate=30, seconds=4)))
load.start()
time.sleep(1.5)
os.kill(before[0], signal.SIGKILL)
load.join()
(one,) = found
print(json.dumps({"replicas": len(before), "killed": before[0] not in replicas(), "clips": one.clips,
                  "answered": one.statuses[200], "lost": one.lost, "wrong": one.wrong}))
serve.shutdown()
ray.shutdown()
"""


@pytest.mark.slow
def test_a_replica_that_is_killed_under_load_loses_no_answer(bundle_folder):
    if not (is_installed("ray") and is_installed("fastapi")):
        pytest.skip("Ray Serve is not installed. Fix: pip install 'spoter-kit[serve-ray]'")
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_UNDER_LOAD, str(bundle_folder)],
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found = json.loads(line)
    assert found["clips"] > 50
    assert found == {"replicas": 2, "killed": True, "lost": 0, "wrong": 0} | {
        "clips": found["clips"],
        "answered": found["clips"],
    }


def test_arguments_of_serve_run_are_checked():
    with pytest.raises(ConfigError, match="replica: unknown, there are bundles, replicas"):
        build({"bundles": "model.spoter", "replica": "3"})
    with pytest.raises(ConfigError, match=r"Fix: bundles=model\.spoter"):
        build({})
    for name, value, right in (
        ("budget_ms", "0", "100"),
        ("budget_ms", "soon", "100"),
        ("replicas", "0", "2"),
    ):
        with pytest.raises(ConfigError, match=rf"{name}: '{value}', .* above 0\. Fix: {name}={right}"):
            build({"bundles": "model.spoter", name: value})
