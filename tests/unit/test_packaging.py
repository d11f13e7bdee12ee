"""Guards the rule that our folder names never shadow anything."""

import operator
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import alauda_registry

ROOT = Path(__file__).parents[2]


def test_operator_is_the_standard_library_module() -> None:
    assert operator.add(1, 2) == 3
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_no_top_level_folder_is_a_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}

    assert packages == set(), "a folder that is a package is importable by its bare name"


def test_no_import_package_shadows_the_standard_library() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/*/__init__.py")}

    assert packages.isdisjoint(sys.stdlib_module_names)


def test_the_package_is_imported_by_its_own_name_only() -> None:
    assert alauda_registry.__name__ == "alauda_registry"
    assert not [name for name in sys.modules if name.startswith("registry.")]


def test_every_source_root_is_in_the_wheel_and_known_to_the_tools() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    roots = {path.parent for path in ROOT.glob("*/alauda_*/__init__.py")}
    packages = {str(root.relative_to(ROOT)) for root in roots}

    tool = configuration["tool"]
    assert set(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == packages
    assert set(tool["importlinter"]["root_packages"]) == {root.name for root in roots}
    assert set(tool["mypy"]["mypy_path"]) == {root.parent.name for root in roots}


def test_every_package_tells_type_checkers_that_it_is_typed() -> None:
    missing = [path.parent for path in ROOT.glob("*/alauda_*/__init__.py")]

    assert [package for package in missing if not (package / "py.typed").exists()] == []


def test_lock_files_name_hashes_and_no_index() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        lines = lock.read_text().splitlines()
        pins = [line for line in lines if line[:1].isalnum()]

        assert pins, f"{lock.name} pins nothing"
        assert all(line.rstrip(" \\").count("==") >= 1 and line.endswith("\\") for line in pins)
        assert not [line for line in lines if "://" in line or line.startswith("--")]


def test_console_scripts_name_functions_that_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    entries = [EntryPoint(name, value, "console_scripts") for name, value in scripts.items()]

    names = [entry.name for entry in entries if callable(entry.load())]
    assert names == ["image-registry", "image-api-server"]
