# SPDX-License-Identifier: Apache-2.0
"""A configuration that is a directory: files laid over each other."""

from pathlib import Path

import pytest

from pointsman_chassis.duration import Duration
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.layers import FILES_MAX, lay_over
from pointsman_chassis.settings import Settings, load_settings

KIND = "SampleConfiguration"
HEAD = f"apiVersion: config.pointsman.io/v1alpha1\nkind: {KIND}\n"


class Inner(Settings, frozen=True, kw_only=True):
    sync_period: Duration = Duration(30)
    retries_max: int = 3


class Sample(Settings, frozen=True, kw_only=True):
    addresses: tuple[str, ...] = ()
    inner: Inner = Inner()
    mode: str = "one"


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name.replace('_', '-')}.yaml").write_text(HEAD + text)
    return directory


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, Sample, KIND)
    return str(caught.value)


def test_later_names_win_mappings_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    write(tmp_path, b_50="mode: two\ninner: {retriesMax: 5}\naddresses: [c]\n")
    write(tmp_path, a_10="mode: zero\ninner: {syncPeriod: 1s}\naddresses: [a, b]\n")
    assert load_settings(tmp_path, Sample, KIND) == Sample(
        mode="two", inner=Inner(sync_period=Duration(1), retries_max=5), addresses=("c",)
    )


def test_other_files_and_the_links_of_configmap_volumes_are_passed_over(tmp_path: Path) -> None:
    data = tmp_path / "..data"
    data.mkdir()
    write(data, only="mode: two\n")
    (tmp_path / "only.yaml").symlink_to("..data/only.yaml")
    (tmp_path / "README.md").write_text("nothing")
    (tmp_path / ".hidden.yaml").write_text("nothing")
    assert load_settings(tmp_path, Sample, KIND).mode == "two"


def test_each_layer_says_what_it_is(tmp_path: Path) -> None:
    write(tmp_path, a="")
    (tmp_path / "b.yaml").write_text("kind: Other\nmode: two\n")
    (tmp_path / "c.yaml").write_text(HEAD)
    message = refusal(tmp_path)
    assert str(tmp_path / "b.yaml") in message
    assert f"kind: expected {KIND}, got 'Other'" in message
    (tmp_path / "b.yaml").write_text("[]\n")
    assert "b.yaml: expected a mapping" in refusal(tmp_path)


def test_what_is_wrong_in_the_sum_names_all_layers(tmp_path: Path) -> None:
    write(tmp_path, a="moed: x\n", b="inner: {retriesMax: many}\n")
    message = refusal(tmp_path)
    assert f"{tmp_path / 'a.yaml'} + {tmp_path / 'b.yaml'} is not valid" in message
    assert "moed: unknown field; did you mean mode?" in message
    assert "inner.retriesMax" in message


def test_a_directory_must_hold_some_files_and_not_a_multitude(tmp_path: Path) -> None:
    assert "without any .yaml file" in refusal(tmp_path)
    write(tmp_path, **{f"x{index}": "" for index in range(FILES_MAX + 1)})
    assert f"{FILES_MAX + 1} files" in refusal(tmp_path)


def test_laying_over_changes_neither() -> None:
    below, above = {"a": {"b": 1}, "c": [1]}, {"a": {"d": 2}, "c": {}}
    assert lay_over(below, above) == {"a": {"b": 1, "d": 2}, "c": {}}
    assert (below, above) == ({"a": {"b": 1}, "c": [1]}, {"a": {"d": 2}, "c": {}})
