# SPDX-License-Identifier: Apache-2.0
"""`python -m pointsman_lab.bench.fanout`: plays the scenes, prints a table, writes build/bench/fanout.json and .md."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pointsman_lab.bench.fanout.scenario import Plan, run
from pointsman_lab.bench.machine import facts


def report(plan: Plan, load_before: str, scenes: Mapping[str, Mapping[str, float]]) -> str:
    """The table in Markdown, with what it was measured on."""
    sizes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(plan).items())
    machine = [f"- {name}: {value}" for name, value in (facts() | {"load average before": load_before}).items()]
    rows = [
        f"| {scene} | {name.replace('_', ' ')} | {value:,.2f} |"
        for scene, figures in scenes.items()
        for name, value in figures.items()
    ]
    head = ["# Fan-out", "", f"Sizes: {sizes}.", "", *machine, "", "| scene | figure | value |", "|---|---|---:|"]
    return "\n".join([*head, *rows, ""])


def main() -> None:
    """Read the sizes from the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m pointsman_lab.bench.fanout", description=__doc__)
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    words = vars(parser.parse_args())
    out: Path = words.pop("out")
    plan = Plan(**words)
    load = " ".join(f"{each:.2f}" for each in os.getloadavg())
    scenes = asyncio.run(run(plan))
    text = report(plan, load, scenes)
    out.mkdir(parents=True, exist_ok=True)
    (out / "fanout.md").write_text(text)
    found = {"sizes": asdict(plan), "machine": facts(), "load average before": load, "scenes": scenes}
    (out / "fanout.json").write_text(json.dumps(found, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
