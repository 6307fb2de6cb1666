# SPDX-License-Identifier: Apache-2.0
"""`make demo`: starts a lab, plays the scenes, says how many checks passed. KEEP=1 leaves the lab up (not a guest's).

Exit status 0 only if every check passed; a scene that breaks counts as a failed check and the others still play.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from pointsman_lab.cli.up import print_help
from pointsman_lab.cluster import Cluster
from pointsman_lab.demo import crashes, guest, scenes
from pointsman_lab.demo.modes import MODES, NFTABLES
from pointsman_lab.demo.story import Story
from pointsman_lab.errors import LabError
from pointsman_lab.settings import LabSettings

_SCENES = (
    scenes.first_sync,
    scenes.who_answers,
    scenes.policies,
    scenes.scale,
    scenes.rolling_update,
    crashes.crashes,
    scenes.explain,
    scenes.trace,
)


async def play(story: Story, *, keep: bool) -> None:
    """Start the lab, play every scene, end the lab (or, with `keep`, wait for Ctrl-C first)."""
    mode = story.mode
    settings = LabSettings(
        name="demo",
        nodes=3,
        zones=2,
        planners=mode.planners,
        mode=mode.enforcer_mode,
        enforcer_config=dict(mode.enforcer_config),
        start_timeout_seconds=mode.start_timeout_seconds,
    )
    story.console.print(
        f"[bold]Pointsman demo[/]: 3 nodes in 2 zones, 2 watchers, {mode.planners} planners, Redis; \
every process a machine of its own, mTLS between them; mode {mode.name}\n"
    )
    async with Cluster(settings, on_step=lambda step: story.say(f"... {step}")) as cluster:
        applied = await cluster.apply(_samples())
        story.say(f"... {len(applied)} objects applied from deploy/samples; waiting for pods")
        await cluster.wait_all_deployed()
        for scene in _SCENES:
            try:
                await scene(cluster, story)
            except (LabError, OSError, LookupError, ValueError) as error:
                story.check(f"{scene.__name__} ran to its end", holds=False, found=f"{type(error).__name__}: {error}")
        if keep:
            print_help(cluster, detached=False)
            await _interrupted()


def _samples() -> Path:
    return Path(__file__).resolve().parents[5] / "deploy" / "samples"


async def _interrupted() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def _is_kept(story: Story) -> bool:
    """Nobody outside could reach a lab that stays up in a guest."""
    return os.environ.get("KEEP", "") not in ("", "0") and not story.mode.guest_modules


def main() -> int:
    """Play the demo; the exit status says whether every check passed."""
    parser = argparse.ArgumentParser(prog="python -m pointsman_lab.demo", description="A cluster, put to the test.")
    parser.add_argument("--mode", choices=tuple(MODES), default=NFTABLES.name, help="the mode of every enforcer")
    story = Story(mode=MODES[parser.parse_args().mode])
    try:
        if guest.is_wanted(story.mode):
            return guest.play_in_guest(story.mode)
        asyncio.run(play(story, keep=_is_kept(story)))
    except LabError as error:
        story.check("the lab started", holds=False, found=error)
    except KeyboardInterrupt:
        story.check("the demo was left alone", holds=False, found="interrupted")
    print(f"\n{story.verdict()}", flush=True)
    return 1 if story.failed else 0


if __name__ == "__main__":
    sys.exit(main())
