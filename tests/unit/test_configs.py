# SPDX-License-Identifier: BSD-2-Clause
"""Machine configs: what comes with the project is sound, and whatever is wrong is named exactly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.configs import CONFIG_DIRECTORY, DEFAULT_CONFIG, MachineConfig, config_names, load_config
from harness.errors import ConfigError

ORIGINAL = (CONFIG_DIRECTORY / f"{DEFAULT_CONFIG}.yaml").read_text()


def line_of(text: str, part: str) -> int:
    """Line (from 1) of the first occurrence of a part."""
    return text[: text.index(part)].count("\n") + 1


def error_of(tmp_path: Path, text: str | bytes) -> str:
    """What the user reads for a config with this content."""
    path = tmp_path / "broken.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


@pytest.mark.parametrize("name", config_names())
def test_configs_of_the_project_load(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config.region_at(config.exchange.base) is config.normal_ram
    assert config.secure_ram.end == config.firmware_ram.base


def test_by_path_and_by_name_agree() -> None:
    assert load_config(CONFIG_DIRECTORY / f"{DEFAULT_CONFIG}.yaml") == load_config()


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("arena_bits: 18", "arena_bit: 18", "arena_bit", "unknown field; did you mean 'arena_bits'?"),
        ("  cpu: cortex-a57", "  cpus: cortex-a57", "qemu.cpus", "did you mean 'cpu'?"),
        ("root-task: 15", "root-tsk: 15", "deadlines.root-tsk", "did you mean 'root-task'?"),
        ("hang_milliseconds: 400", "colour: blue", "colour", "unknown field; there are: name, description"),
        ("arena_bits: 18", "arena_bits: many", "arena_bits", "integer"),
        ("arena_bits: 18", "arena_bits: 40", "arena_bits", "less than or equal to 21, not 40"),
        ("launched: 10", "launched: -1", "deadlines.launched", "greater than 0, not -1"),
        ("launched: 10", "launched: .inf", "deadlines.launched", "finite number"),
        ('minimum_version: "7.2"', 'minimum_version: "new"', "qemu.minimum_version", "pattern"),
        ("name: spanning-el1", "title: spanning-el1", "title", "unknown field"),
        ("size: 0x00010000}", "size: 0x00010001}", "exchange.size", "multiple of 4096, not 65537 (0x10001)"),
        ("exchange: {base: 0x40200000", "exchange: {base: 0x0e000000", "exchange", "must lie inside 'normal-ram'"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, old: str, new: str, field: str, words: str) -> None:
    broken = ORIGINAL.replace(old, new)
    assert broken != ORIGINAL
    message = error_of(tmp_path, broken)
    assert f"broken.yaml:{line_of(broken, new)}: {field}: " in message
    assert words in message


def test_every_wrong_field_is_named_at_once(tmp_path: Path) -> None:
    message = error_of(tmp_path, ORIGINAL.replace("arena_bits: 18", "arena_bits: x").replace("cpu:", "cpux:"))
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("region", "old", "new", "words"),
    [
        ("uart1", "world: secure", "world: secret", "did you mean 'secure'?"),
        ("uart1", "0x09040000", "0x09000000", "'uart0' and 'uart1' overlap at 0x9000000"),
        ("uart1", "name: uart1", "name: uart0", "two regions are called 'uart0'"),
        ("uart1", "base:", "basis:", "unknown field; did you mean 'base'?"),
        ("uart1", "size: 0x00001000", "size: 0", "greater than 0"),
        ("virtio", "base: 0x0a000000", "base: 0x1000000000000", "less than 281474976710656"),
        ("virtio", "kind: device, ", "", "this field is missing"),
        ("normal-ram", "world: non-secure", "world: banked", "only a device can be banked"),
    ],
)
def test_a_wrong_region_is_named_with_its_line(tmp_path: Path, region: str, old: str, new: str, words: str) -> None:
    lines = ORIGINAL.splitlines()
    number = next(n for n, text in enumerate(lines) if f"name: {region}," in text)
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new)
    message = error_of(tmp_path, "\n".join(lines))
    assert f"broken.yaml:{number + 1}: regions[" in message
    assert words in message


def test_a_part_of_memory_that_is_missing(tmp_path: Path) -> None:
    message = error_of(tmp_path, ORIGINAL.replace("kind: ram,    use: kernel,", "kind: ram,    use: reserved,"))
    assert "no region with kind: ram, use: kernel" in message


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    broken = ORIGINAL + "arena_bits: 19\n"
    message = error_of(tmp_path, broken)
    assert f"broken.yaml:{len(broken.splitlines())}: field 'arena_bits' appears twice" in message
    assert f"(first in line {line_of(ORIGINAL, 'arena_bits: 18')})" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a machine config is a list of fields"),
        (b"- a\n- b\n", "a machine config is a list of fields"),
        (b"name: [unfinished", ":1: not YAML"),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (b"name: \x00", "not usable YAML"),
        (b"x: &a [*a]", "nested deeper than"),
        (b"[" * 5000, "not usable YAML"),
        (b"name: !!python/object:os.system x", "not YAML"),
        (b"name: 2024-99-99", "not usable YAML"),
        (b"? [a]\n: b", "must be plain text"),
        (ORIGINAL[: len(ORIGINAL) // 2].encode(), "broken.yaml:"),
    ],
)
def test_content_that_is_no_config(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in error_of(tmp_path, content)


def test_multiplying_aliases_end_early(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "once aliases are followed" in error_of(tmp_path, "\n".join(lines))


def test_a_mistyped_name_of_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no machine config 'spaning-el1'; did you mean 'spanning-el1'\?"):
        load_config("spaning-el1")
    with pytest.raises(ConfigError, match=r"there are: .*spanning-el1"):
        load_config(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="no machine config"):
        load_config(tmp_path)


def _check_random(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "random.yaml"
    path.write_bytes(text)
    try:
        assert isinstance(load_config(path), MachineConfig)
    except ConfigError as error:
        assert re.match(r".*random\.yaml(:\d+)?: ", str(error))


relaxed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@relaxed
@given(st.binary(max_size=200))
@example(b"%YAML 9")
@example(b"0x_: 1")
def test_random_bytes_never_end_in_a_traceback(tmp_path: Path, text: bytes) -> None:
    _check_random(tmp_path, text)


@relaxed
@given(position=st.integers(0, len(ORIGINAL)), length=st.integers(0, 40), inserted=st.text(max_size=12))
def test_random_edits_never_end_in_a_traceback(tmp_path: Path, position: int, length: int, inserted: str) -> None:
    edited = ORIGINAL[:position] + inserted + ORIGINAL[position + length :]
    _check_random(tmp_path, edited.encode("utf-8", "surrogatepass"))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
REGION_FIELDS = ["name", "base", "size", "world", "kind", "use", "window", "other"]


@relaxed
@given(field=st.sampled_from(sorted(yaml.safe_load(ORIGINAL))), value=VALUES)
def test_random_values_never_end_in_a_traceback(tmp_path: Path, field: str, value: object) -> None:
    data = yaml.safe_load(ORIGINAL)
    data[field] = value
    _check_random(tmp_path, yaml.safe_dump(data).encode())


@relaxed
@given(index=st.integers(0, 14), field=st.sampled_from(REGION_FIELDS), value=VALUES)
def test_random_values_in_a_region_never_end_in_a_traceback(
    tmp_path: Path, index: int, field: str, value: object
) -> None:
    data = yaml.safe_load(ORIGINAL)
    data["regions"][index][field] = value
    _check_random(tmp_path, yaml.safe_dump(data).encode())


TRUSTED_OS = (CONFIG_DIRECTORY / "trusted-os.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ("level: el1", "level: el3", "normal_world.level", "'el1' or 'el2', not 'el3'"),
        (
            "memory: {base: 0x40400000",
            "memory: {base: 0x0e000000",
            "normal_world.memory",
            "must lie inside 'normal-ram'",
        ),
        ("memory: {base: 0x40400000", "memory: {base: 0x40200000", "normal_world.memory", "it overlaps 'exchange'"),
        ("shared: {base: 0x40600000", "shared: {base: 0x405ff000", "normal_world.shared", "it overlaps 'memory'"),
        ("[0, 1,", "[0, 1, 29,", "normal_world.interrupts[2]", "line 29 is the secure timer's"),
        ("[0, 1,", "[0, 1, 0,", "normal_world.interrupts[2]", "line 0 is listed twice"),
        ("[0, 1,", "[0, 256,", "normal_world.interrupts[1]", "less than 256"),
        ("save_el2: false", "save_el3: false", "normal_world.save_el3", "did you mean 'save_el2'?"),
    ],
)
def test_a_wrong_normal_world_is_named(tmp_path: Path, old: str, new: str, field: str, words: str) -> None:
    assert old in TRUSTED_OS
    message = error_of(tmp_path, TRUSTED_OS.replace(old, new))
    assert f"broken.yaml:{line_of(TRUSTED_OS, old)}: {field}: " in message
    assert words in message
