# SPDX-License-Identifier: Apache-2.0
"""A configuration in several files, so that what an installation changes stands apart from what it takes over.

The files of a directory are layers: each is laid over those whose names come before its own. Mappings are merged;
everything else, lists too, is replaced.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pointsman_chassis.errors import ConfigError

FILES_MAX: Final = 100
SUFFIX: Final = ".yaml"


def files_of(path: Path) -> list[Path]:
    """The file itself, or the *.yaml of a directory in the order of their names, hidden ones left out.

    Raises:
        ConfigError: the directory cannot be read, or holds no such file, or more than FILES_MAX.
    """
    if not path.is_dir():
        return [path]
    try:
        found = sorted(each for each in path.iterdir() if each.suffix == SUFFIX and not each.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror or error}") from error
    if not found:
        raise ConfigError(f"configuration {path} is a directory without any {SUFFIX} file")
    if len(found) > FILES_MAX:
        raise ConfigError(f"configuration {path} has {len(found)} files; at most {FILES_MAX} are accepted")
    return found


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """What the two come to."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = lay_over(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged
