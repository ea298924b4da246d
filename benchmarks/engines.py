"""Build TensorRT-RTX engines from bundles and read them back: seconds, bytes, types of the layers.

    python benchmarks/engines.py BUNDLE [BUNDLE ...]

Each bundle has fp32 and fp16 ONNX files (`spoter-kit export --precision fp32,fp16`). No GPU is needed, and
nothing is executed. Writes benchmarks/results/engines-<cpu>-<month>.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from result_files import environment_lines, write_result

from spoter_export.bundle.engines import plan_from_bundle
from spoter_export.trt.to_tensorrt import engine_from_onnx
from spoter_runtime.bundle.engine_spec import uncovered
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_toolkit.bench.host.environment import environment

TARGETS = (("8.0",), ("8.6",), ("8.9",), ("12.0",), ("8.0", "8.6", "8.9", "12.0"))
ROUNDS = 3


def row(bundle: Bundle, precision: str, targets: tuple[str, ...]) -> dict[str, Any]:
    """Build one engine a few times, and return what is known of it."""
    model = bundle.read(bundle.onnx(precision).path)
    plan = plan_from_bundle(bundle)
    builds = [
        engine_from_onnx(
            model,
            library="tensorrt_rtx",
            contract=bundle.contract,
            plan=plan,
            compute_capabilities=targets,
        )
        for _ in range(ROUNDS)
    ]
    spec = builds[0].spec
    seconds = [build.spec.built["seconds"] for build in builds]
    return {
        "bundle": bundle.name,
        "precision": precision,
        "compute_capabilities": targets,
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "bytes": [len(build.plan) for build in builds],
        "identical": len({build.plan for build in builds}) == 1,
        "profiles": [str(profile) for profile in spec.profiles],
        "contract_covered": uncovered(spec.profiles, bundle.contract) is None,
        "built": spec.built,
        "library": f"{spec.library} {spec.version}",
    }


def markdown(rows: list[dict[str, Any]], where: dict[str, Any]) -> str:
    """Return the result as a page."""
    table = [
        f"| {r['bundle']} | {r['precision']} | {', '.join(r['compute_capabilities'])} | "
        f"{r['median_seconds']:.1f} s ({min(r['seconds']):.1f}–{max(r['seconds']):.1f}) | "
        f"{max(r['bytes']) / 1e6:.2f} MB | {'yes' if r['identical'] else 'no'} | {types(r['built'])} | no |"
        for r in rows
    ]
    return "\n".join(
        (
            f"# Engines of {rows[0]['library']}, built without a GPU",
            "",
            f"`python benchmarks/engines.py BUNDLE …`, {ROUNDS} builds each: median (least–most) seconds. "
            "Every engine has both profiles of its plan, covers its contract, and was read back: inputs, "
            "output, profiles, and version and compute capabilities from the header of the file itself.",
            "",
            "| bundle | precision | compute capability | built in | size | identical | matrix products, "
            "normalisations, softmax by type | executed |",
            "|---|---|---|---|---|---|---|---|",
            *table,
            "",
            *environment_lines(where),
        )
    )


def types(built: dict[str, Any]) -> str:
    """Return how many layers of the kinds that count give which type."""
    kinds = ("MATRIX_MULTIPLY", "NORMALIZATION", "SOFTMAX")
    return "; ".join(
        ", ".join(f"{count} {dtype}" for dtype, count in sorted(built["types"].get(kind, {}).items()))
        for kind in kinds
    )


def main() -> None:
    """Build everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    rows = []
    for bundle in map(read_bundle, parser.parse_args().bundles):
        for precision in ("fp32", "fp16"):
            for targets in TARGETS:
                rows.append(row(bundle, precision, targets))
                print(json.dumps({k: v for k, v in rows[-1].items() if k != "built"}), file=sys.stderr)
    where = environment()
    write_result("engines", {"rows": rows}, markdown(rows, where), where)


if __name__ == "__main__":
    main()
