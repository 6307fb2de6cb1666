# SPDX-License-Identifier: Apache-2.0
"""A command in a User-Mode-Linux guest: a kernel of its own, which cannot write the host's files and leaves nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pointsman_lab.errors import LabError
from pointsman_lab.guest.machine import run_in_guest


def test_a_guest_is_another_kernel_with_ipvs_and_gives_back_status_output_and_files(tmp_path: Path) -> None:
    script = "uname -r; ipvsadm -A -t 10.0.0.1:80 -s rr && ipvsadm -Ln; echo made >/run/guest/file; exit 3"
    lines: list[str] = []
    result = run_in_guest(
        ["sh", "-c", script], shared=tmp_path, modules=["ip_vs", "ip_vs_rr"], timeout_seconds=120, written=lines.append
    )
    assert result.status == 3
    assert result.output.splitlines() == lines
    assert lines[0] != os.uname().release
    assert "TCP  10.0.0.1:80 rr" in lines
    assert (tmp_path / "file").read_text() == "made\n"


def test_a_guest_cannot_write_the_files_of_the_host(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    shared = tmp_path / "shared"
    result = run_in_guest(["sh", "-c", f"echo no >{victim}"], shared=shared, timeout_seconds=120)
    assert result.status != 0
    assert not victim.exists()


def test_processes_of_a_guest_keep_their_vector_registers_apart(tmp_path: Path) -> None:
    """Wide registers are what the guest's kernel saves with the help of xstate.c; glibc's memcpy uses them."""
    program = (
        "import hashlib, threading\n"
        "data = bytes(range(256)) * 4096\n"
        "wanted = hashlib.sha256(data).hexdigest()\n"
        "bad = []\n"
        "def work():\n"
        "    for _ in range(150):\n"
        "        if hashlib.sha256(bytes(bytearray(data))).hexdigest() != wanted: bad.append(1)\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print('wrong', len(bad))\n"
    )
    result = run_in_guest(["python3", "-c", program], shared=tmp_path, timeout_seconds=120)
    assert result.output.splitlines()[-1:] == ["wrong 0"], result.output


def test_a_missing_module_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nosuchmodule"):
        run_in_guest(["true"], shared=tmp_path, modules=["nosuchmodule"], timeout_seconds=120)


def test_a_guest_that_takes_too_long_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="ended after"):
        run_in_guest(["sleep", "1000"], shared=tmp_path, timeout_seconds=5)
    deadline = time.monotonic() + 10
    while _processes_with(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _processes_with(str(tmp_path)) == []


def _processes_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line:
                found.append(entry.name)
    return found
