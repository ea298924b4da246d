"""How many cores a process may use, and what else speed depends on."""

from __future__ import annotations

import os

import pytest

from spoter_runtime import machine


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 8),
        ("", 8),
        ("x y", 8),
    ],
)
def test_a_containers_quota_counts_as_well_as_the_cores(quota, cores, monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert machine.usable_cores() == cores


def test_instructions_for_products_are_named(monkeypatch):
    monkeypatch.setattr(
        machine, "cpuinfo", lambda field: ["fpu avx2 avx512_vnni sse"] * 2 * (field == "flags")
    )
    assert machine.cpu_features() == ["avx2", "avx512_vnni"]
    monkeypatch.setattr(machine, "cpuinfo", lambda field: [])
    assert machine.cpu_features() == []
