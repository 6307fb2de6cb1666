# SPDX-License-Identifier: Apache-2.0
"""What an operator sees when a configuration file is right, and when it is wrong."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pointsman_chassis.duration import Duration
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import (
    Settings,
    decode_settings,
    dump_settings,
    load_settings,
    parse_settings,
    parse_yaml,
    settings_as_data,
    write_settings,
)

KIND = "SampleConfiguration"
HEAD = f"apiVersion: config.pointsman.io/v1alpha1\nkind: {KIND}\n"


class Inner(Settings, frozen=True, kw_only=True):
    sync_period: Duration = Duration(30)
    retries_max: int = 3


class Sample(Settings, frozen=True, kw_only=True):
    node_port_addresses: tuple[str, ...] = ()
    iptables: Inner = Inner()
    rules: list[Inner] = msgspec.field(default_factory=list)
    weights: dict[str, int] = msgspec.field(default_factory=dict)
    zones: Annotated[tuple[str, ...], msgspec.Meta(max_length=2)] = ()
    optional: Inner | None = None
    masquerade_bit: int = 14

    def __post_init__(self) -> None:
        if not 0 <= self.masquerade_bit <= 31:
            raise ValueError(f"masqueradeBit must be within 0..31, got {self.masquerade_bit}")


class Demanding(Settings, frozen=True, kw_only=True):
    node_name: str


def parse(text: str) -> Sample:
    return parse_settings(HEAD + text, Sample, KIND, source="test.yaml")


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value).split("\n  ")[1:]


def test_no_file_gives_the_defaults() -> None:
    assert load_settings(None, Sample, KIND) == Sample()


def test_every_kind_of_field_is_read() -> None:
    settings = parse(
        "nodePortAddresses: [10.0.0.0/8, primary]\niptables: {syncPeriod: 250ms}\nrules: [{retriesMax: 1}]\n"
        "weights: {a: 1}\noptional: {syncPeriod: 1h30m}\nmasqueradeBit: 15\n"
    )
    assert settings == Sample(
        node_port_addresses=("10.0.0.0/8", "primary"),
        iptables=Inner(sync_period=Duration(0.25)),
        rules=[Inner(retries_max=1)],
        weights={"a": 1},
        optional=Inner(sync_period=Duration(5400)),
        masquerade_bit=15,
    )


def test_all_problems_are_reported_at_once_with_their_paths() -> None:
    assert problems_of(
        "nodePortAddresses: [a, 7]\niptables: {syncPeriod: soon, retriesMax: x}\nrules: [{}, {syncPeriod: 5}]\n"
        "weights: {a: heavy}\nmasqeradeBit: 3\n"
    ) == [
        "masqeradeBit: unknown field; did you mean masqueradeBit?",
        "nodePortAddresses[1]: Expected `str`, got `int`",
        "iptables.syncPeriod: expected a duration such as 250ms, 5s, 1m or 1h30m, got 'soon'",
        "iptables.retriesMax: Expected `int`, got `str`",
        "rules[1].syncPeriod: expected a duration such as 250ms, 5s or 1m, got 5; quote it with a unit",
        "weights.a: Expected `int`, got `str`",
    ]


def test_a_struct_that_rejects_its_values_names_the_field() -> None:
    assert problems_of("masqueradeBit: 32\n") == ["masqueradeBit must be within 0..31, got 32"]


def test_a_constraint_on_a_list_is_checked() -> None:
    assert parse("zones: [a, b]\n").zones == ("a", "b")
    assert problems_of("zones: [a, b, c]\n") == ["zones: Expected `array` of length <= 2"]


def test_a_section_that_is_no_mapping_is_refused() -> None:
    assert problems_of("iptables: 5\n") == ["iptables: expected a mapping, got 5"]


def test_a_missing_required_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nodeName: a value is required"):
        parse_settings(HEAD, Demanding, KIND, source="test.yaml")


def test_another_kind_and_version_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings("apiVersion: v1\nkind: Pod\n", Sample, KIND, source="test.yaml")
    assert "apiVersion: expected config.pointsman.io/v1alpha1, got 'v1'" in str(caught.value)
    assert "kind: expected SampleConfiguration, got 'Pod'" in str(caught.value)


def test_a_field_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'masqueradeBit' is given twice"):
        parse("masqueradeBit: 1\nmasqueradeBit: 2\n")


def test_merges_of_merges_are_bounded() -> None:
    lines = ["a: &a {x: 1}"]
    lines += [f"{name}: &{name} {{<<: [{', '.join([f'*{below}'] * 9)}]}}" for below, name in pairwise("abcdefghi")]
    with pytest.raises(ConfigError, match="more than 10000 fields"):
        parse_yaml("\n".join(lines), source="test")
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}", source="test") == [{"a": {"x": 1}, "b": {"x": 1, "y": 2}}]


@pytest.mark.parametrize("content", ["", "- 1\n", "just text", "{", "\x00", "a: !!python/object:os.system {}\n"])
def test_what_is_no_settings_document_is_a_configuration_error(content: str) -> None:
    with pytest.raises(ConfigError, match=r"test\.yaml"):
        parse_settings(content, Sample, KIND, source="test.yaml")


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "absent.yaml", Sample, KIND)


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    settings = Sample(node_port_addresses=("primary",), optional=Inner(sync_period=Duration(90)), weights={"b": 2})
    write_settings(tmp_path / "out.yaml", settings, KIND)
    assert load_settings(tmp_path / "out.yaml", Sample, KIND) == settings


def test_the_dump_spells_out_every_default() -> None:
    assert dump_settings(Sample(), KIND).startswith(HEAD)
    assert settings_as_data(Sample())["iptables"] == {"syncPeriod": "30s", "retriesMax": 3}


@given(st.integers(min_value=0, max_value=10**13))
def test_a_duration_survives_being_written_and_read(microseconds: int) -> None:
    duration = Duration(microseconds / 1_000_000)
    assert Duration.parse(str(duration)) == pytest.approx(duration, abs=1e-6)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1s1", "1 s", "1d", "1e3s", "5S"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        Duration.parse(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    ),
    st.sampled_from(["nodePortAddresses", "iptables", "rules", "weights", "optional", "masqueradeBit"]),
)
def test_no_value_of_any_shape_escapes_as_another_exception(value: object, field: str) -> None:
    try:
        outcome = str(parse(yaml.safe_dump({field: value})))
    except ConfigError as error:
        outcome = str(error)
    assert field in outcome or outcome.startswith("Sample(")


class Period(Settings, frozen=True, kw_only=True):
    sync_period: Duration = Duration(30)
    min_sync_period: Duration = Duration(1)
    bits: int = 0

    def problems(self) -> list[str]:
        found = []
        if self.min_sync_period > self.sync_period:
            found.append("minSyncPeriod: must not be greater than syncPeriod")
        if self.bits > 31:
            found.append("bits: at most 31")
        return found


class Outer(Settings, frozen=True, kw_only=True):
    nftables: Period = Period()


def outer_problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_settings(HEAD + text, Outer, KIND, source="test.yaml")
    return str(caught.value).split("\n  ")[1:]


def test_all_problems_of_a_struct_are_reported_with_their_paths() -> None:
    assert outer_problems("nftables: {syncPeriod: 1s, minSyncPeriod: 2s, bits: 32}") == [
        "nftables.minSyncPeriod: must not be greater than syncPeriod",
        "nftables.bits: at most 31",
    ]


def test_a_field_that_cannot_be_read_does_not_hide_what_is_wrong_with_others() -> None:
    problems = outer_problems("nftables: {syncPeriod: x, minSyncPeriod: 40s, bits: 32, bit: 1}")
    assert [problem.partition(":")[0] for problem in problems] == [
        "nftables.bit",
        "nftables.syncPeriod",
        "nftables.bits",
    ]


def test_other_kinds_of_document_are_decoded_by_the_same_rules() -> None:
    documents = parse_yaml("---\napiVersion: v1\nkind: Other\nnftables: {bits: 3}\n---\n", source="x")
    assert len(documents) == 1
    found = decode_settings(documents[0], Outer, "Other", source="x", api_version="v1")
    assert found.nftables.bits == 3
    with pytest.raises(ConfigError, match="apiVersion: expected v2, got 'v1'"):
        decode_settings(documents[0], Outer, "Other", source="x", api_version="v2")


def test_a_file_has_one_document() -> None:
    with pytest.raises(ConfigError, match="one YAML document, got 2"):
        parse_settings(f"{HEAD}---\n{HEAD}", Outer, KIND, source="x")


@pytest.mark.parametrize(
    "line", ["a: 2001-13-45", "a: !!int ''", "a: !!timestamp x", "a: !!bool maybe", "a: 0b_", "a: \udcff", "<<: [1]"]
)
def test_a_value_that_yaml_cannot_construct_is_a_configuration_error(line: str) -> None:
    with pytest.raises(ConfigError, match="sample is not valid"):
        parse_settings((HEAD + line).encode(errors="surrogateescape"), Sample, KIND, source="sample")


def test_aliases_of_aliases_do_not_make_a_long_message() -> None:
    lines = ["x0: &x0 [x]", *(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}, *x{n - 1}, *x{n - 1}]" for n in range(1, 20))]
    with pytest.raises(ConfigError) as raised:
        parse_settings("\n".join([*lines, "kind: *x19", "iptables: 0x" + "f" * 9000]), Sample, KIND, source="sample")
    assert len(str(raised.value)) < 10_000
