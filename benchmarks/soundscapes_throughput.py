"""How many ten-second clips a second are generated, start-up and writing included?

python benchmarks/soundscapes_throughput.py [--clips 400] [--processes 2] [--soundbank DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

from lab.errors import command
from lab.soundscapes import generate


def cpu_seconds() -> float:
    """Return the time that this process and the workers that ended had a core for."""
    return sum(os.times()[:4])


def seconds_for(clips: int, processes: int, soundbank: str | None) -> tuple[float, float]:
    """Time (wall, cpu) the generation of training clips and, as a quarter of them, test clips."""
    test = clips // 4
    with tempfile.TemporaryDirectory() as folder:
        start, start_cpu = time.perf_counter(), cpu_seconds()
        generate(
            Path(folder) / "data",
            strong=clips - test,
            weak=0,
            unlabelled=0,
            validation=0,
            test=test,
            soundbank=soundbank,
            processes=processes,
            progress=False,
        )
        return time.perf_counter() - start, cpu_seconds() - start_cpu


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--soundbank", metavar="DIR", help="recordings instead of models")
    parser.add_argument("--repeats", type=int, default=2, help="the best one counts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    def best(clips: int) -> tuple[float, float]:
        runs = range(max(1, arguments.repeats))
        return min(seconds_for(clips, arguments.processes, arguments.soundbank) for _ in runs)

    seconds, cpu = best(arguments.clips)
    start_up, start_up_cpu = best(arguments.processes)
    cpu_a_clip = (cpu - start_up_cpu) / max(1, arguments.clips - arguments.processes)
    result = {
        "sounds": "recorded" if arguments.soundbank else "parametric",
        "clips": arguments.clips,
        "processes": arguments.processes,
        "seconds": round(seconds, 2),
        "start_up_seconds": round(start_up, 2),
        "clips_per_second": round(arguments.clips / seconds, 1),
        "cpu_milliseconds_per_clip": round(1000 * cpu_a_clip, 1),
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(
        f"{result['clips']} clips, {result['sounds']} sounds, {result['processes']} processes: "
        f"{result['seconds']} s, of which some {result['start_up_seconds']} s to start; "
        f"{result['clips_per_second']} clips a second, "
        f"{result['cpu_milliseconds_per_clip']} ms of a core a clip"
    )


if __name__ == "__main__":
    main()
