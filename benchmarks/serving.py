"""Compare `spoter-kit serve` with the plainest hand-written server; overload it; reload it under load.

    python benchmarks/serving.py model.spoter [--rounds 6] [--bound-ms 33] [--minutes 1]
    python benchmarks/serving.py model.spoter --only-rates 4

The second compares rates alone, with the plain server on one thread, which is the faster one, in as many
rounds as fit in four minutes; it wants a machine with nothing else to do.
The client runs on the same cores. Its requests are binary, one clip each, of the lengths of BdSLW60's clips.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from result_files import write_result

from spoter_runtime.errors import BackendError
from spoter_runtime.statistics import ratio_of_rounds
from spoter_toolkit.bench.url import CLIPS, CLOSED_CLIENTS, Target, capacity_of, highest_rate, open_loop
from spoter_toolkit.data.lengths import generated_lengths
from spoter_toolkit.report.table import markdown_table

HERE = Path(__file__).parent
PORT = 8721
OPTIONS = ["--backend", "ort-cpu-fused", "--budget-ms"]  # the file that the plain server loads too
LENGTHS = generated_lengths()
NAMES = ("plain", "plain, 1 thread", "serve")
# Of rates alone: halvings of the first search, then of those around the rate of the round before, to 4 %.
FIRST_STEPS, STEPS, AROUND = 4, 3, (0.7, 1.3)


@contextlib.contextmanager
def running(name: str, bundle: Path, port: int, bound_ms: float) -> Iterator[tuple[Target, psutil.Process]]:
    """Run a server, and yield what to ask and its process."""
    command = {
        "serve": [
            "-m",
            "spoter_toolkit",
            "serve",
            str(bundle),
            "--port",
            str(port),
            "-q",
            *OPTIONS,
            str(bound_ms),
        ],
        "plain": [str(HERE / "plain_server.py"), str(bundle), str(port)],
        "plain, 1 thread": [str(HERE / "plain_server.py"), str(bundle), str(port), "--threads", "1"],
    }[name]
    with subprocess.Popen([sys.executable, *command]) as process:
        try:
            yield target_at(f"http://127.0.0.1:{port}"), psutil.Process(process.pid)
        finally:
            process.terminate()


def target_at(url: str) -> Target:
    """Return a server as soon as it answers."""
    for _ in range(100):
        with contextlib.suppress(BackendError):
            return Target(url, LENGTHS.sample(CLIPS, seed=0))
        time.sleep(0.2)
    raise BackendError(f"{url}: does not answer")


def one_round(
    targets: dict[str, Target], number: int, options: argparse.Namespace, **how: Any
) -> dict[str, Any]:
    """Find each server's highest rate, in turn, the first one last every other round."""
    names = list(targets) if number % 2 else list(targets)[::-1]
    found = {}
    for name in names:
        capacity = capacity_of(targets[name])
        highest = search(targets[name], number, options, most=1.5 * capacity, **how)
        found[name] = {"capacity": capacity} | highest
        print(number, name, round(capacity), round(highest["highest_rate"] or 0), flush=True)
    return found


def search(target: Target, number: int, options: argparse.Namespace, **where: Any) -> dict[str, Any]:
    """Return the highest rate that keeps the bound, and what was tried."""
    highest = highest_rate(
        target,
        bound_ms=options.bound_ms,
        seconds=options.seconds,
        seed=100 * number,
        percent=options.percent,
        **where,
    )
    return {"highest_rate": highest.rate, "trials": highest.trials}


def rounds_in(targets: dict[str, Target], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return as many rounds as fit; after the first, each searches around the rate of the round before."""
    ends = time.monotonic() + 60 * options.only_rates
    rounds, number, longest = [one_round(targets, 1, options, steps=FIRST_STEPS)], 1, 0.0
    around = {name: one["highest_rate"] or one["capacity"] for name, one in rounds[0].items()}
    while (begun := time.monotonic()) + longest < ends:
        number += 1
        found = {}
        for name in list(targets) if number % 2 else list(targets)[::-1]:
            least, most = (factor * around[name] for factor in AROUND)
            found[name] = search(targets[name], number, options, least=least, most=most, steps=STEPS)
            found[name]["capacity"] = None
            around[name] = found[name]["highest_rate"] or least
            print(number, name, round(found[name]["highest_rate"] or 0), flush=True)
        rounds.append(found)
        longest = max(longest, time.monotonic() - begun)
    return rounds


def overload(target: Target, process: psutil.Process, capacity: float, seconds: float) -> dict[str, Any]:
    """Send twice the capacity; watch the server's memory."""
    open_loop(target, rate=2 * capacity, seconds=3)  # each length has been there, in each size of batch
    memory: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            memory.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    load = open_loop(target, rate=2 * capacity, seconds=seconds)
    done.set()
    watcher.join()
    third = max(1, len(memory) // 3)
    return {
        "rate": 2 * capacity,
        "seconds": seconds,
        "clips": load.clips,
        "statuses": {str(status): n for status, n in sorted(load.statuses.items())},
        "wrong": load.wrong,
        "answered_ms": {f"p{percent}": ms for percent, ms in load.percentiles_ms().items()},
        "memory_mb": [round(float(np.median(part)) / 1e6, 1) for part in (memory[:third], memory[-third:])],
    }


def reloads(target: Target, process: psutil.Process, rate: float, seconds: float) -> dict[str, Any]:
    """Reload the bundle each second while clips come."""
    done = threading.Event()
    count = 0

    def reload() -> None:
        nonlocal count
        while not done.wait(1):
            process.send_signal(signal.SIGHUP)
            count += 1

    reloader = threading.Thread(target=reload)
    reloader.start()
    load = open_loop(target, rate=rate, seconds=seconds)
    done.set()
    reloader.join()
    return {
        "rate": rate,
        "reloads": count,
        "clips": load.clips,
        "refused": load.statuses[429],
        "lost": load.lost,
        "wrong": load.wrong,
    }


def ratio_of(rounds: list[dict[str, Any]], what: str, plain: str) -> str:
    """Return serve ÷ a plain server, over the rounds in which both kept the bound."""
    found = [
        one["serve"][what] / one[plain][what] for one in rounds if one["serve"][what] and one[plain][what]
    ]
    return (
        f"{ratio_of_rounds(found)}, {len(found)} of {len(rounds)} rounds" if found else "none kept the bound"
    )


def rate_of(found: float | None, missing: str) -> str:
    """Return a rate as the page says it; `missing` where none was found, or none was looked for."""
    return f"{found:.0f}" if found else missing


def page(values: dict[str, Any]) -> list[str]:
    """Return the page's lines."""
    rounds, names = values["rounds"], [name for name in NAMES if name in values["rounds"][0]]
    rows = [
        (
            str(number),
            *(rate_of(one[name]["highest_rate"], "none") for name in names),
            *(rate_of(one[name]["capacity"], "–") for name in names),
        )
        for number, one in enumerate(rounds, 1)
    ]
    columns = (
        "round",
        *(f"{name}: highest rate" for name in names),
        *(f"{name}: {CLOSED_CLIENTS} clients" for name in names),
    )
    lines = [
        markdown_table(columns, rows),
        "",
        f"Clips a second; the highest rate has p{values['percent']} within {values['bound_ms']:g} ms. "
        f"Load average: {values['load_average']}.",
        "",
        markdown_table(
            ("serve ÷", "highest rate", f"{CLOSED_CLIENTS} clients without a pause"),
            [(plain, values["ratio"][plain], values["capacity_ratio"][plain]) for plain in names[:-1]],
        ),
    ]
    if "overload" not in values:
        return lines
    over, again = values["overload"], values["reloads"]
    return [
        *lines,
        "",
        f"At {over['rate']:.0f} clips a second, twice its capacity, for {over['seconds']:.0f} s: statuses "
        f"{over['statuses']}, wrong {over['wrong']}; of the answered clips {times(over['answered_ms'])}; "
        f"memory in the first and the last third {over['memory_mb'][0]} and {over['memory_mb'][1]} MB.",
        "",
        f"{again['reloads']} reloads under {again['rate']:.0f} clips a second: of {again['clips']} clips "
        f"{again['lost']} lost, {again['wrong']} wrong, {again['refused']} refused as busy.",
    ]


def times(answered_ms: dict[str, float | None]) -> str:
    """Return percentiles in words."""
    return ", ".join(f"{name} {ms:.0f} ms" for name, ms in answered_ms.items() if ms is not None)


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--bound-ms", type=float, default=33.0)
    parser.add_argument("--percent", type=int, choices=(90, 99), default=99, help="90 on a busy machine")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each trial, at least")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the overload")
    parser.add_argument("--only-rates", type=float, metavar="MINUTES", help="no overload, no reloads")
    options = parser.parse_args()
    names = NAMES[1:] if options.only_rates else NAMES
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(running(name, options.bundle, PORT + i, options.bound_ms))
            for i, name in enumerate(names)
        ]
        targets = {name: target for name, (target, _) in zip(names, started, strict=True)}
        if options.only_rates:
            rounds, more = rounds_in(targets, options), {}
        else:
            rounds = [one_round(targets, number, options) for number in range(1, options.rounds + 1)]
            capacity = float(np.median([one["serve"]["capacity"] for one in rounds]))
            more = {
                "overload": overload(*started[-1], capacity, 60 * options.minutes),
                "reloads": reloads(*started[-1], capacity / 4, 20),
            }
    values = {
        "bound_ms": options.bound_ms,
        "percent": options.percent,
        "lengths": str(LENGTHS),
        "rounds": rounds,
        "ratio": {plain: ratio_of(rounds, "highest_rate", plain) for plain in names[:-1]},
        "capacity_ratio": {plain: ratio_of(rounds, "capacity", plain) for plain in names[:-1]},
        "load_average": " ".join(f"{one:.0f}" for one in psutil.getloadavg()),
        **more,
    }
    write(values)


def write(values: dict[str, Any]) -> None:
    """Write the result's two files."""
    write_result(
        "serving" if "overload" in values else "serving-rates",
        "Serving clips of any length",
        f"Clips of {LENGTHS}, binary, one a request, open loop: random arrivals, latency from when a clip "
        "was due; a refused clip counts as never answered. Each rate by bisection, the servers in turn. The "
        "client runs on the same cores.",
        page(values),
        values,
    )


if __name__ == "__main__":
    main()
