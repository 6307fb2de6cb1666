# SPDX-License-Identifier: Apache-2.0
"""How the demo talks, and how it keeps count of what it checked."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from pointsman_lab.demo.modes import NFTABLES, DemoMode

_WIDTH_MIN = 140


def _width() -> int:
    return max(_WIDTH_MIN, shutil.get_terminal_size().columns)


@dataclass(slots=True)
class Story:
    """The narrator. `check` is the only way to pass or fail; the demo's exit status is what it counted."""

    mode: DemoMode = NFTABLES
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True, width=_width()))
    started: float = field(default_factory=time.monotonic)
    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def chapter(self, title: str) -> None:
        """Begin a part of the demo."""
        self.console.print(f"\n[bold cyan]{title}[/]  [dim]{time.monotonic() - self.started:5.1f} s[/]")

    def say(self, text: str) -> None:
        """Tell something; nothing is checked."""
        self.console.print(f"  {text}", markup=False)

    def declare(self, text: str) -> None:
        """Say what this mode does otherwise by declaration; the check of it follows."""
        self.say(f"declared of {self.mode.name} mode: {text}")

    def check(self, text: str, *, holds: bool, found: object = None) -> None:
        """Count one check; `found` is shown when it does not hold."""
        if holds:
            self.passed += 1
            self.console.print(f"  [green]ok[/]     {text}")
            return
        self.failed.append(text)
        self.console.print(f"  [bold red]FAILED[/] {text}")
        if found is not None:
            self.console.print(f"         found: {found}", markup=False)

    def table(self, rows: Mapping[str, Mapping[str, int]]) -> None:
        """Show which pod answered how often, for each way of asking."""
        table = Table("asked", "answers by pod", show_edge=False, pad_edge=False)
        for asked, counts in rows.items():
            table.add_row(asked, "  ".join(f"{pod} {count}" for pod, count in sorted(counts.items())))
        self.console.print(Padding(table, (0, 0, 0, 2)))

    def text(self, lines: Sequence[str]) -> None:
        """Show preformatted lines."""
        for line in lines:
            self.console.print(f"  {line}", markup=False, soft_wrap=True)

    def verdict(self) -> str:
        """The demo's last line."""
        return f"demo: {self.passed} checks passed, {len(self.failed)} failed"
