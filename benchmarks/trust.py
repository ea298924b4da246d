"""What trust costs when a bundle is loaded: processor time and memory, with a signature and without.

    python benchmarks/trust.py BUNDLE [--rounds 20] [--core 1]

Processes of their own, in turn. Python's bytecode is compiled before, as an installed package has it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from result_files import RESULTS, write_result

import spoter_runtime
from spoter_runtime.statistics import interval_of
from spoter_toolkit.report.table import markdown_table

SIGNED, UNSIGNED, STRICT, LIBRARY = "load, trust=[key]", "load", "strict reading alone", "cryptography alone"
# Each prints milliseconds of processor time, and MB of memory: at the peak, and what no other process shares.
_BEGIN = """
import json, resource, sys, time
from pathlib import Path
def mb():
    kept = dict(line.split(":") for line in open("/proc/self/smaps_rollup") if ":" in line)
    peak_kB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [peak_kB / 1024, int(kept["Private_Dirty"].split()[0]) / 1024]
from spoter_runtime import Recognizer
import spoter_runtime.bundle.manifest, spoter_runtime.model_file.check, spoter_runtime.ort.runner
bundle, key = Path(sys.argv[1]), sys.argv[2]
"""
_END = """
print(json.dumps([1000 * (time.process_time() - begin), *mb()]))
"""
_LOAD = "begin = time.process_time(); recognizer = Recognizer.load(bundle, 'ort-cpu', threads=1{})"
STEPS = {
    SIGNED: _LOAD.format(", trust=[key]"),
    UNSIGNED: _LOAD.format(""),
    STRICT: """
content = (bundle / "model.ort.onnx").read_bytes()
begin = time.process_time()
json.loads((bundle / "bundle.json").read_text())
plain = time.process_time() - begin
begin = time.process_time() + plain
spoter_runtime.bundle.manifest.read_bundle(bundle)
spoter_runtime.model_file.check.check_onnx_file(content)
""",
    LIBRARY: """
begin = time.process_time()
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
""",
}


def measure(step: str, bundle: Path, key: Path, core: int, env: dict[str, str]) -> list[float]:
    """Run one step in a process of its own; return its milliseconds and its MB."""
    command = ["taskset", "-c", str(core), sys.executable, "-W", "ignore", "-c", _BEGIN + STEPS[step] + _END]
    done = subprocess.run([*command, bundle, key], env=env, check=True, capture_output=True, text=True)
    found: list[float] = json.loads(done.stdout)
    return found


def median(values: np.ndarray, rng: np.random.Generator) -> str:
    """Return a median with its 95 % interval."""
    drawn = np.median(values[rng.integers(len(values), size=(10_000, len(values)))], axis=1)
    low, high = interval_of(drawn)
    return f"{np.median(values):.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measure in turn, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    found: dict[str, list[list[float]]] = {step: [] for step in STEPS}
    with tempfile.TemporaryDirectory() as folder:
        signed, key = Path(folder, "signed.spoter"), Path(folder, "maker.key")
        shutil.copytree(given.bundle, signed)
        sign = ["-m", "spoter_toolkit", "sign", signed, "--key", key, "--new-key"]
        subprocess.run([sys.executable, *sign], check=True, capture_output=True)
        env = os.environ | {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode", "OMP_NUM_THREADS": "1"}
        env |= {"PYTHONPATH": str(Path(spoter_runtime.__file__).parents[1]), "ORT_DISABLE_TELEMETRY": "1"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(given.rounds + 1):  # the first round compiles, and does not count
            for step, values in found.items():
                value = measure(step, signed, key.with_name("maker.key.pub"), given.core, env)
                values += [value] if number else []
        size = sum(path.stat().st_size for path in signed.iterdir()) / 1e6
    arrays = {step: np.array(values) for step, values in found.items()}
    rng = np.random.default_rng(0)
    rows = [
        (f"{SIGNED} − {UNSIGNED}", *(median(one, rng) for one in (arrays[SIGNED] - arrays[UNSIGNED]).T)),
        *((step, *(median(one, rng) for one in values.T)) for step, values in arrays.items()),
    ]
    columns = ("step", "processor time, ms", "memory at the peak, MB", "memory that is not shared, MB")
    write_result(
        "trust",
        "What trust costs at load",
        f"A signed bundle of {size:.1f} MB, whose every byte is hashed. {given.rounds} rounds in turn on one "
        "core; medians with 95 % intervals, differences by round.",
        [
            markdown_table(columns, rows),
            "",
            f"“{STRICT}”: the manifest as dataclasses and the model's operators, less a plain `json.loads`. "
            f"“{LIBRARY}”: importing it. Memory that is not shared leaves out the pages of a library's file, "
            "which the system can drop.",
        ],
        {"rounds": given.rounds, "MB": size, "found": {step: one.tolist() for step, one in arrays.items()}},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
