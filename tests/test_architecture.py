"""The shape of the code: imports only go downward, and the README's map names what there is."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mixstill"
FILES = sorted(SOURCE.rglob("*.py"))

# Units (a module or package right under mixstill) from the ground up; those of one floor do not know each other.
FLOORS = [
    {"digest", "errors", "markdown", "normalisation", "quiet", "spread", "telling", "typed", "version"},
    {"files"},
    {"checks", "paths", "rng", "texts"},
    {"config", "lock"},
    {"schema"},
    {"models", "views", "overrides", "recipes", "stored", "unused"},
    {"data"},
    {"distill"},
    {"train"},
    {"teaching", "reproduction"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}


def module_of(file: Path) -> str:
    """`train.loop` for train/loop.py, `train` for train/__init__.py, `__init__` for the root."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(file): file for file in FILES}


def imported(file: Path) -> set[str]:
    """The modules of mixstill that a file imports anywhere in it, functions included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in below if name.removeprefix("mixstill.") in MODULES}
            found |= modules if len(modules) == len(below) else modules | {str(node.module)}
    ours = {name for name in found if name.split(".")[0] == "mixstill"}
    return {name.removeprefix("mixstill.") if name != "mixstill" else "__init__" for name in ours}


def test_every_unit_has_a_floor() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_downward(module: str) -> None:
    unit = module.split(".")[0]
    for other in imported(MODULES[module]):
        below = other.split(".")[0]
        assert below == unit or FLOOR[below] < FLOOR[unit], f"mixstill.{module} imports mixstill.{other}"


def test_the_walk_sees_imports_of_every_form(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "import mixstill.rng\nfrom mixstill import errors, files\n"
        "def f():\n    from mixstill.train.run import train\n    from mixstill import Student\n"
    )
    assert imported(file) == {"rng", "errors", "files", "train.run", "__init__"}


def test_no_module_imports_itself_in_a_circle() -> None:
    TopologicalSorter({module: imported(file) for module, file in MODULES.items()}).prepare()


def test_only_the_command_line_and_the_root_import_by_name() -> None:
    by_name = {module for module, file in MODULES.items() if "import_module" in file.read_text(encoding="utf-8")}
    assert by_name == {"cli", "__init__"}


def test_no_file_is_long() -> None:
    lengths = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in MODULES.items()}
    assert [module for module, length in lengths.items() if length > 400] == []


def test_the_readme_maps_every_file() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("no README")
    _, heading, after = readme.read_text(encoding="utf-8").partition("\n## Map\n")
    assert heading, "the README has no section '## Map'"
    block = re.search(r"```.*?\n(.*?)```", after.partition("\n## ")[0], re.DOTALL)
    assert block is not None, "the section Map has no code block"
    mapped = [word for word in re.findall(r"[\w/]+\.py\b", block[1]) if not word.endswith("__init__.py")]
    there = {file.relative_to(SOURCE).as_posix() for file in FILES if file.name != "__init__.py"}
    assert set(mapped) - there == set()
    assert there - set(mapped) == set()
    assert len(mapped) == len(set(mapped))
