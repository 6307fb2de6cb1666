# SPDX-License-Identifier: Apache-2.0
"""How the demo talks, and how it keeps count of what it checked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(slots=True)
class Story:
    """The narrator. `check` is the only way to pass or fail; the demo's exit status is what it counted."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    started: float = field(default_factory=time.monotonic)
    passed: int = 0
    failed: list[str] = field(default_factory=list)

    def chapter(self, title: str) -> None:
        """Begin a part of the demo."""
        self.console.print(f"\n[bold cyan]{title}[/]  [dim]{time.monotonic() - self.started:5.1f} s[/]")

    def say(self, text: str) -> None:
        """Tell something; nothing is checked."""
        self.console.print(f"  {text}", markup=False)

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

    def table(self, title: str, rows: Mapping[str, Mapping[str, int]]) -> None:
        """Show how often each pod (column) answered for each way of asking (row)."""
        pods = sorted({pod for counts in rows.values() for pod in counts})
        table = Table(title=title, title_justify="left", title_style="")
        table.add_column("asked")
        for pod in pods:
            table.add_column(pod, justify="right")
        for asked, counts in rows.items():
            table.add_row(asked, *(str(counts.get(pod, 0) or "-") for pod in pods))
        self.console.print(table)

    def text(self, lines: Sequence[str]) -> None:
        """Show preformatted lines."""
        for line in lines:
            self.console.print(f"  {line}", markup=False, soft_wrap=True)

    def verdict(self) -> str:
        """The demo's last line."""
        return f"demo: {self.passed} checks passed, {len(self.failed)} failed"
