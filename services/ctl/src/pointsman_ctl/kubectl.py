# SPDX-License-Identifier: Apache-2.0
"""The one place that runs kubectl: whatever it needs to reach the cluster, the operator has set up for it already."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pointsman_ctl.errors import KubectlError

_STDERR_CHARACTERS_MAX: Final = 2000
_EXTRA_SECONDS: Final = 5.0
_LOG_LINE: Final = re.compile(r"[IWEF]\d{4} \d{2}:\d{2}:\d{2}\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """kubectl with a kubeconfig and a context; empty ones are kubectl's own choice."""

    kubeconfig: str = ""
    context: str = ""
    timeout_seconds: float = 10.0

    @property
    def is_installed(self) -> bool:
        """Whether there is a kubectl on PATH."""
        return shutil.which("kubectl") is not None

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        chosen = [*(["--kubeconfig", self.kubeconfig] if self.kubeconfig else [])]
        chosen += ["--context", self.context] if self.context else []
        return ["kubectl", *chosen, *arguments]

    def run(self, *arguments: str, stdin: bytes = b"", accepts: Sequence[int] = (0,)) -> str:
        """What it prints.

        Raises:
            KubectlError: it is not installed, takes too long, or ends with a status that is not accepted.
        """
        timeout = f"--request-timeout={max(round(self.timeout_seconds), 1)}s"
        argv = self.command(*arguments[:1], timeout, *arguments[1:])
        shown = " ".join(["kubectl", *arguments])
        try:
            done = subprocess.run(
                argv, input=stdin, capture_output=True, check=False, timeout=self.timeout_seconds * 2 + _EXTRA_SECONDS
            )
        except FileNotFoundError as error:
            raise KubectlError("kubectl is not on PATH; install it, or leave out what needs the cluster") from error
        except subprocess.TimeoutExpired as error:
            raise KubectlError(f"`{shown}` did not end in {error.timeout:g} s; is the API server reachable?") from error
        if done.returncode not in accepts:
            said = _without_log(done.stderr.decode(errors="replace"))[:_STDERR_CHARACTERS_MAX]
            raise KubectlError(f"`{shown}` ended with {done.returncode}: {said or 'it said nothing'}")
        return done.stdout.decode(errors="replace")

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ... -o json`, decoded. Errors as in `run`."""
        text = self.run("get", *arguments, "-o", "json")
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise KubectlError(f"`kubectl get {' '.join(arguments)}` printed no JSON: {error}") from error


def _without_log(text: str) -> str:
    """What kubectl says to people, without the lines that its libraries log on the way."""
    return "\n".join(line for line in text.splitlines() if not _LOG_LINE.match(line)).strip()
