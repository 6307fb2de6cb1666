# SPDX-License-Identifier: Apache-2.0
"""GET over HTTP, for pages of planners and for Jaeger."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Final

from pointsman_ctl.errors import CtlError, UsageError

_SIZE_MAX_BYTES: Final = 64 << 20


def fetch(url: str, *, timeout_seconds: float) -> bytes:
    """The body of the answer.

    Raises:
        UsageError: the URL is not http or https.
        CtlError: there is no answer, or an error; says which.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no URL: begin with http:// or https://")
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:  # noqa: S310 - the scheme was checked above
            body: bytes = answer.read(_SIZE_MAX_BYTES)
            return body
    except urllib.error.HTTPError as error:
        raise CtlError(f"GET {url}: {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CtlError(f"GET {url}: {reason}; is it served there, and reachable from here?") from error
