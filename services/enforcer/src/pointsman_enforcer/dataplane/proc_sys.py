# SPDX-License-Identifier: Apache-2.0
"""Where the kernel's network switches can be written.

In a container without privileges all of /proc/sys is read-only, whatever its capabilities. The same files mounted from
the node at another place are not, and they too are those of the network namespace of whoever opens them
(`deploy/components/sysctls`).
"""

from pathlib import Path
from typing import Final

OWN: Final = Path("/proc/sys/net")
OF_THE_NODE: Final = Path("/host/proc/sys/net")


def network_sysctls(of_the_node: Path = OF_THE_NODE) -> Path:
    """The directory that holds `ipv4`, `ipv6` and `netfilter`: the node's where it is mounted, else our own."""
    return of_the_node if of_the_node.is_dir() else OWN
