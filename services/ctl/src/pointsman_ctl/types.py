# SPDX-License-Identifier: Apache-2.0
"""Arguments of the command line that are more than text: what cannot be read is a usage error that says the form."""

from __future__ import annotations

from typing import Any

import click

from pointsman.types.v1.types_pb2 import NamespacedName
from pointsman_chassis.duration import Duration
from pointsman_ctl.core import words


class ServiceType(click.ParamType[NamespacedName, str]):
    """A Service: NAME, NAMESPACE/NAME, svc/NAME."""

    name = "service"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> NamespacedName:
        """The name; a usage error for anything else."""
        try:
            return value if isinstance(value, NamespacedName) else words.service_name(value, "default")
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DestinationType(click.ParamType[words.Destination, str]):
    """ADDRESS:PORT, ADDRESS:PORT/UDP."""

    name = "destination"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> words.Destination:
        """The destination; a usage error for anything else."""
        try:
            return value if isinstance(value, words.Destination) else words.destination(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class AddressType(click.ParamType[bytes, str]):
    """An IP address, packed."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """The address; a usage error for anything else."""
        try:
            return value if isinstance(value, bytes) else words.address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DurationType(click.ParamType[Duration, str]):
    """`30s`, `1m30s`, `250ms`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Duration:
        """The span; a usage error for anything else."""
        try:
            return value if isinstance(value, Duration) else Duration.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
