# SPDX-License-Identifier: Apache-2.0
"""What removing kube-proxy's IPVS asks of the kernel: servers, addresses and a device in batches, and ipsets.

Blocking, in the network namespace of the calling thread. pyroute2 is imported only where kube-ipvs0 exists.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.ipvs.genetlink import message
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsChannel, IpvsError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import VirtualServerId
from pointsman_model.names import format_address, parse_address

_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT})
_DESTROY_ATTEMPTS: Final = 20
_DESTROY_PAUSE_SECONDS: Final = 0.02
"""nf_tables lets go of the sets of deleted rules a moment after the rules are gone."""


def saved_sets() -> str:
    """Every ipset as text; nothing without the tool, as kube-proxy's sets need it, too."""
    tool = exec.find("ipset")
    return "" if tool is None else exec.run([tool, "save"])


def destroy_sets(names: Collection[str]) -> None:
    """Destroy sets that no rule asks any more. CommandError when one is still asked."""
    tool = exec.find("ipset")
    if tool is None or not names:
        return
    text = "".join(f"destroy {name}\n" for name in sorted(names)).encode()
    for attempt in range(_DESTROY_ATTEMPTS):
        try:
            exec.run([tool, "restore", "-exist"], stdin=text)
        except CommandError:
            if attempt == _DESTROY_ATTEMPTS - 1:
                raise
            time.sleep(_DESTROY_PAUSE_SECONDS)
        else:
            return


def delete_servers(channel: IpvsChannel, servers: Iterable[VirtualServerId]) -> None:
    """Remove virtual servers with their real servers, all in one send; some may be gone already.

    Raises:
        IpvsError: the kernel refused to remove one.
    """
    messages = [message.delete_service(each) for each in servers]
    refused = [each for each in channel.send(messages) if each.errno not in _GONE]
    if refused:
        raise IpvsError("; ".join(str(each) for each in refused[:3]))


def addresses() -> Iterator[tuple[bytes, int, int]]:
    """Every address with its prefix length and its device's number. OSError when the kernel does not list them."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - 16 MB that a node without kube-ipvs0 does without
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    try:
        with IPRoute() as route:
            listed = list(route.get_addr())
    except NetlinkError as error:
        raise OSError(error.code, f"the kernel does not list addresses: {error}") from error
    for each in listed:
        text = each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")
        if text:
            yield parse_address(text), each["prefixlen"], each["index"]


def delete_addresses(device: int, gone: Mapping[bytes, int]) -> None:
    """Take addresses off a device; one that is gone already is no error."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - as above
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    with IPRoute() as route:
        for address, bits in gone.items():
            try:
                route.addr("del", index=device, address=format_address(address), prefixlen=bits)
            except NetlinkError as error:
                if error.code != errno.EADDRNOTAVAIL:
                    raise OSError(error.code, f"taking {format_address(address)} away: {error}") from error


def delete_device(device: int) -> None:
    """Remove a device with all its addresses."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - as above
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    try:
        with IPRoute() as route:
            route.link("del", index=device)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise OSError(error.code, f"removing a device: {error}") from error
