"""Rules that no reader should have to check: where impurity may live, and what is never used."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("mcp", "consensus", "executor", "simulations")
# Product code: the simulation world has clocks, threads and networks of its own.
PRODUCT = ("mcp", "consensus", "executor")

TIME_AND_CHANCE = {"time", "random", "uuid", "secrets"}
DYNAMIC_IMPORTS = ("import_module", "find_spec", "__import__")
ASYNCIO_HOMES = (
    "mcp/net/",
    "mcp/client/",
    "mcp/node/",
    "mcp/cli/",
    "mcp/gateway/asgi.py",
    "mcp/gateway/grpc_server.py",
    "mcp/gateway/operations.py",
    "mcp/gateway/server.py",
    "consensus/driver.py",
    "executor/pool.py",
)
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "manager", "misc", "common", "stuff"}
FILE_LINES_MAX = 600
# Longer than we like, and not to grow: an entry may only be lowered or removed.
FILE_LINES_MAX_OF: dict[str, int] = {}
FUNCTION_LINES_MAX = 60

Source = tuple[str, ast.Module]


@functools.cache
def sources(packages: tuple[str, ...] = PACKAGES) -> tuple[Source, ...]:
    paths = [path for package in packages for path in sorted((REPOSITORY / package).rglob("*.py"))]
    return tuple((path.relative_to(REPOSITORY).as_posix(), parsed(path)) for path in paths)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, wherever in the file, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(DYNAMIC_IMPORTS):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def importers(modules: set[str], packages: tuple[str, ...] = PRODUCT) -> set[str]:
    """The files that import one of these top-level modules."""
    return {
        path
        for path, tree in sources(packages)
        if any(name.split(".")[0] in modules for name in imports(tree))
    }


def test_the_scan_sees_what_it_should(tmp_path: Path) -> None:
    tree = ast.parse(
        "import a.b\nfrom c import d\ndef f():\n    import time as t\n    import_module('g.h')\n"
    )
    assert set(imports(tree)) == {"a.b", "c", "c.d", "time", "g.h"}
    assert {"mcp/clock.py", "mcp/errors.py", "consensus/interface.py", "executor/interface.py"} <= {
        path for path, _ in sources()
    }


def reads_time_or_draws_chance(tree: ast.Module) -> bool:
    """Whether a file uses these modules for more than the type ``random.Random`` of an argument."""
    taken = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = called | ((used | taken) - {"random.Random"})
    draws = "Random" in called and "random.Random" in taken
    return draws or any("." in name and name.split(".")[0] in TIME_AND_CHANCE for name in names)


@pytest.mark.parametrize(
    ("line", "impure"),
    [
        ("import time\nstarted = time.monotonic()", True),
        ("import time\nclock = time.monotonic", True),
        ("from time import sleep", True),
        ("import random\ngenerator = random.Random(1)", True),
        ("from random import Random\ngenerator = Random(1)", True),
        ("from random import Random\ndef f(generator: Random) -> None: ...", False),
        ("import random\ndef f(generator: random.Random) -> float: return generator.random()", False),
    ],
)
def test_the_clock_rule_tells_a_use_from_a_type(line: str, impure: bool) -> None:
    assert reads_time_or_draws_chance(ast.parse(line)) is impure


def test_only_the_clock_module_reads_time_and_draws_chance() -> None:
    assert {path for path, tree in sources(PRODUCT) if reads_time_or_draws_chance(tree)} == {"mcp/clock.py"}


def test_only_the_clock_module_asks_the_system_for_entropy_or_the_date() -> None:
    drawing = {
        path
        for path, tree in sources(PRODUCT)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"urandom", "getrandom", "utcnow", "today"}
    }
    assert drawing == {"mcp/clock.py"}


@pytest.mark.parametrize(
    ("library", "home"), [("pysyncobj", "consensus/raft/"), ("onnxruntime", "executor/onnx.py")]
)
def test_an_engine_is_imported_in_one_module_only(library: str, home: str) -> None:
    found = importers({library})
    assert len(found) == 1, f"{library} belongs in one module, found {sorted(found)}"
    assert all(path.startswith(home) for path in found), found


def test_nothing_can_be_unpickled() -> None:
    assert (
        importers({"pickle", "cPickle", "_pickle", "shelve", "dill", "cloudpickle", "marshal"}, PACKAGES)
        == set()
    )


def test_numpy_never_unpickles() -> None:
    """``numpy.load`` unpickles where it is allowed to, so every call has to refuse it in so many words."""
    allowing = [
        f"{path}:{node.lineno}"
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load"}
        if "allow_pickle=False" not in ast.unparse(node)
    ]
    assert allowing == []


def test_asyncio_lives_in_the_shell_only() -> None:
    strays = {path for path in importers({"asyncio"}) if not path.startswith(ASYNCIO_HOMES)}
    assert strays == set()


def test_no_process_is_forked() -> None:
    """onnxruntime's threads do not survive a fork, and neither does what they hold."""
    assert importers({"multiprocessing", "pty"}) == set()


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path, _ in sources() if set(Path(path).with_suffix("").parts) & VAGUE_NAMES] == []


def imports_own_root(path: str, tree: ast.Module) -> bool:
    package, *_ = path.split("/")
    names = set(imports(tree))
    if any(name.startswith(".") for name in names):
        return True
    # "from mcp import errors" takes a submodule, which is fine only if nothing of the facade is meant.
    modules = {child.stem for child in (REPOSITORY / package).iterdir()}
    taken = {name for name in names if name.count(".") == 1 and name.split(".")[0] == package}
    return any(name.split(".")[1] not in modules for name in taken)


def test_no_module_imports_the_root_of_its_own_package() -> None:
    assert [
        path
        for path, tree in sources()
        if path.count("/") and not path.endswith("/__init__.py") and imports_own_root(path, tree)
    ] == []


@pytest.mark.parametrize(
    ("line", "is_root"),
    [
        ("from mcp import Client", True),
        ("from . import errors", True),
        ("from mcp import errors", False),
        ("from mcp.errors import McpError", False),
        ("import mcp.clock", False),
    ],
)
def test_the_root_rule_tells_a_facade_from_a_module(line: str, is_root: bool) -> None:
    assert imports_own_root("mcp/somewhere/module.py", ast.parse(line)) is is_root


def test_files_stay_short_enough_to_read() -> None:
    lengths = {path: len((REPOSITORY / path).read_text().splitlines()) for path, _ in sources()}
    limits = {path: FILE_LINES_MAX_OF.get(path, FILE_LINES_MAX) for path in lengths}
    assert {path: length for path, length in lengths.items() if length > limits[path]} == {}


def test_functions_stay_short_enough_to_read() -> None:
    long = {
        f"{path}:{node.name}": node.end_lineno - node.lineno + 1
        for path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == {}
