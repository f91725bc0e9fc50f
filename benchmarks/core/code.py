"""The code that a number comes from, and its digest: an edited method is another method.

It is read, not run: from some modules on every import of the same packages is followed, those in functions
too, but not those that are for types alone. What is digested is what the code says; comments, docstrings and
layout are no part of it.
"""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from whalebench.benchmarks.core.files import digest_file, digest_text

OWN = "whalebench"
GROUP = "whalebench.methods"
"""The entry-point group; a method's package declares `name = "module:Class"` in it."""
OF_FILE = "whalebench_file_"
"""How the module of a method's file is called, before the file's name: no other module is hidden by it."""
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""What may hold statements, in statements."""
FOR_TYPES = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
"""Of whose body nothing is run."""


class Code(NamedTuple):
    """Some modules with all that they are made of."""

    digest: str
    """SHA-256 of what they say; a package that comes without sources is in it by its version, and named."""
    files: tuple[Path, ...]
    """The files that say it."""


class _Module(NamedTuple):
    """What is known of one module."""

    digest: str
    imports: tuple[str, ...]
    """Every module, and every name of one, that it imports, in full."""


def read_code(modules: Iterable[str]) -> Code:
    """The code of the modules, of what they import of their own distributions, and so on.

    What they import of others is no part of it: those have versions.
    """
    roots = sorted(set(modules))
    packages = {package for module in roots for package in _installed_together(module.partition(".")[0])}
    files: dict[str, Path] = {}
    said: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in files or name.partition(".")[0] not in packages or (file := _file_of(name)) is None:
            continue
        module = _read(name, file, file.stat().st_size, file.stat().st_mtime_ns)
        files[name], said[name] = file, f"{name} {module.digest}"
        waiting += [name.rpartition(".")[0], *module.imports]
    absent = sorted({root.partition(".")[0] for root in roots if root not in files})
    versions = [f"{package} {_version(package)}" for package in absent]
    note = f" and {', '.join(versions)} without sources" if versions else ""
    return Code(
        digest_text("\n".join([*(said[name] for name in sorted(said)), *versions])) + note,
        tuple(sorted(set(files.values()))),
    )


def what_it_says(tree: ast.Module) -> str:
    """The code of a module without comments, docstrings and layout.

    >>> what_it_says(ast.parse("def f(x):\\n  'Doubles.'\\n  return (2 * x)  # twice"))
    'def f(x):\\n    return 2 * x'
    """
    for node in _statements(tree):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [line for line in body if not _is_text(line)] or [ast.Pass()]
    return ast.unparse(tree)


def _statements(tree: ast.Module, *, for_types: bool = True) -> Iterator[ast.AST]:
    """The module, its statements and those within them: a tenth of what `ast.walk` goes through.

    Those that are for types alone are left out where they are not asked for.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        yield (node := waiting.pop())
        unseen = not for_types and isinstance(node, ast.If) and ast.unparse(node.test) in FOR_TYPES
        for block in BLOCKS[unseen:]:
            if isinstance(inner := getattr(node, block, None), list):  # a lambda's body is an expression
                waiting += inner


def _is_text(line: ast.stmt) -> bool:
    """Whether a statement is nothing but a text, as a docstring is."""
    value = line.value if isinstance(line, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@cache
def _read(name: str, file: Path, size: int, changed: int) -> _Module:
    """The module; read anew when the size of its file or the time of its last change is another."""
    del size, changed
    if file.suffix != ".py":  # compiled
        return _Module(digest_file(file), ())
    tree = ast.parse(file.read_bytes())
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imports = tuple(dict.fromkeys(_imports(tree, package)))
    return _Module(digest_text(what_it_says(tree)), imports)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Each module it imports, and each name it imports from one, which may be a module, too."""
    for node in _statements(tree, for_types=False):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            module = ".".join([*above, node.module] if node.module else above)
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def _file_of(name: str) -> Path | None:
    """The file of a module, found without importing it; None for what is no module, or has no file."""
    top, *inner = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # no module, or one that says nothing of itself
        return None
    if spec is None or not inner:
        return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *inner)
        if not base.parent.is_dir():  # a name in a module
            continue
        compiled = base.parent.glob(f"{base.name}.*")
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py"), *sorted(compiled)):
            if file.suffix in (".py", ".so", ".pyd", ".pyc") and file.is_file():
                return file
    return None


@cache
def _installed_together(package: str) -> frozenset[str]:
    """The packages of the same distribution, this one among them; of none those beside it of none either."""
    if package == OWN:
        return frozenset({OWN})
    distributions = packages_distributions()
    own = set(distributions.get(package, ()))
    if not own and (file := _file_of(package)):
        folder = file.parent.parent if file.name == "__init__.py" else file.parent
        return frozenset({package} | {each.stem for each in folder.iterdir()} - distributions.keys())
    return frozenset({package} | {other for other, names in distributions.items() if own & set(names)})


def _version(package: str) -> str:
    """The version of the distribution that a package is of."""
    for name in (package, *packages_distributions().get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of no version"


def place_in_plug_in(error: BaseException) -> str:
    """Where in a plug-in an error arose, as " (line 3 of my_method.py)"; empty for what arose elsewhere."""
    plug_ins = {point.module.partition(".")[0] for point in entry_points(group=GROUP)} - {OWN}
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        top = frame.f_globals.get("__name__", "").partition(".")[0]
        if top == OWN:
            return ""
        if top in plug_ins or top.startswith(OF_FILE):
            return f" (line {line} of {Path(frame.f_code.co_filename).name})"
    return ""
