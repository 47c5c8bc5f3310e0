"""The laws of the house, as tests over the source tree: what stands where, what nowhere, how large it may be."""

import ast
import json
import re
import subprocess
import sys
import time
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEF = (ast.FunctionDef, ast.AsyncFunctionDef)
MADE = {"build", "dist", "__pycache__"}  # folders of built things, beside those that begin with a dot

# literal -> where in octavo/ it may stand
HOMES = {
    "</think>": ("text/chat/",),
    "<|im_start|>": ("text/chat/",),
    "log_softmax": ("nn/logprobs.py",),
    "cross_entropy(": ("nn/logprobs.py",),
    "multinomial": ("engine/sampler.py",),
    "exponential_(": ("engine/sampler.py",),
    "scaled_dot_product_attention": ("nn/",),
    "sys.argv": ("cli/",),
    "subprocess": ("nn/kernels/build.py", "serve/engines.py", "tasks/sandbox.py"),  # compiler; engine's process; judges
    "\\boxed": ("tasks/verify/",),
    "####": ("tasks/verify/",),
    "trust_" + "remote_code": (),
}

# Calls that are no work: they name a type, a table or a constant. Names that begin with a capital are constructors.
ALLOWED_CALLS = {"frozenset", "tuple", "dict", "set", "list", "range", "bytes", "field", "cast", "getLogger", "compile",
                 "namedtuple", "dtype", "split", "join", "replace", "maketrans", "enumerate"}  # fmt: skip
ALLOWED_DECORATORS = {"dataclass", "property", "setter", "staticmethod", "classmethod", "override", "overload", "final",
                      "cache", "lru_cache", "cached_property", "contextmanager", "abstractmethod", "runtime_checkable",
                      "no_grad", "inference_mode", "wraps", "total_ordering"}  # fmt: skip


def files(*folders: str) -> list[Path]:
    """Python files of the repository under the named folders."""
    return sorted(p for p in tree() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in folders)


@cache
def tree() -> tuple[Path, ...]:
    """All files of the repository: nothing that was built, nothing that begins with a dot but .ci and .gitignore."""

    def walk(folder: Path) -> Iterator[Path]:
        for path in folder.iterdir():
            hidden = path.name.startswith(".") and path.name not in (".ci", ".gitignore")
            if not hidden and path.name not in MADE and not path.name.endswith(".egg-info"):
                yield from walk(path) if path.is_dir() else [path]

    return tuple(walk(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def at(path: Path, node: ast.AST) -> str:
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    return f"{where}:{getattr(node, 'lineno', 1)}"


def name_of(node: ast.expr | None) -> str:
    """The last name of `a`, `a.b`, `a.b(...)`, `a[...]`; "" for anything else."""
    while isinstance(node, (ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def none_of(found: list[str], law: str) -> None:
    if found:
        pytest.fail(f"{law}:\n  " + "\n  ".join(found), pytrace=False)


@pytest.mark.parametrize("literal", HOMES)
def test_tell_tale_literals_have_one_home(literal: str):
    found = []
    for path in files("octavo"):
        place = path.relative_to(ROOT / "octavo").as_posix()
        if literal in path.read_text(encoding="utf-8") and not place.startswith(HOMES[literal]):
            found.append(f"octavo/{place}")
    none_of(found, f"{literal!r} stands outside {HOMES[literal] or 'its home, which this package does not have yet'}")


def forbidden(path: Path) -> Iterator[str]:
    """Everything in a file that may stand nowhere."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Global):
            yield f"{at(path, node)} global"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
            if {name.split(".")[0] for name in names} & {
                "pickle",
                "cPickle",
                "dill",
                "cloudpickle",
                "marshal",
                "shelve",
            }:
                yield f"{at(path, node)} pickle"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "torch.load", "joblib.load") or called.endswith("read_pickle"):
                yield f"{at(path, node)} {called}("
            if name_of(node.func) == "suppress":
                yield f"{at(path, node)} an exception swallowed by suppress"
        elif isinstance(node, ast.ExceptHandler) and swallows(node):
            yield f"{at(path, node)} a swallowed exception"


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether a handler does nothing, or catches everything without raising again."""
    idle = all(
        isinstance(s, (ast.Pass, ast.Continue)) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in handler.body
    )
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []
    broad = not caught or any(name_of(kind) in ("Exception", "BaseException") for kind in caught)
    raises = any(isinstance(node, ast.Raise) for statement in handler.body for node in ast.walk(statement))
    return idle or (broad and not raises)


def test_what_stands_nowhere():
    none_of([each for path in files("octavo", "bench", "tests") for each in forbidden(path)], "found")


WRONG = """
import pickle
def f(model):
    global g
    try:
        g = eval("1")
    except ValueError:
        pass
    try:
        torch.load(model.eval())
    except Exception as cause:
        print(cause)
    with contextlib.suppress(OSError):
        model.exec()
"""


def test_what_may_stand_nowhere_is_seen(tmp_path: Path):
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    rows = sorted(int(found.split(":")[1].split()[0]) for found in forbidden(tmp_path / "wrong.py"))
    assert rows == [2, 4, 6, 7, 10, 11, 13]  # and not model.eval() or model.exec()


def import_work(path: Path, body: list[ast.stmt]) -> Iterator[str]:
    """Statements of a module or class that do work when they are imported."""
    for node in body:
        if isinstance(node, (*DEF, ast.ClassDef)):
            for decorator in node.decorator_list:
                if name_of(decorator) not in ALLOWED_DECORATORS:
                    yield f"{at(path, decorator)} decorator {ast.unparse(decorator)}"
            if isinstance(node, ast.ClassDef):
                yield from import_work(path, node.body)
            else:
                defaults = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d]
                yield from (each for default in defaults for each in calls_of(path, default))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            continue
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            yield from calls_of(path, node.value) if node.value else ()
        elif not isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            yield f"{at(path, node)} {ast.unparse(node)[:60]}"


def calls_of(path: Path, value: ast.expr) -> Iterator[str]:
    """Calls in a value that are more than naming a type, a table or a constant."""
    waiting: list[ast.AST] = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Lambda):
            continue  # its body runs when it is called
        if isinstance(node, ast.Call) and not (
            name_of(node.func) in ALLOWED_CALLS or name_of(node.func).lstrip("_")[:1].isupper()
        ):
            yield f"{at(path, node)} {ast.unparse(node)[:60]}"
        waiting += ast.iter_child_nodes(node)


def test_nothing_works_on_import_and_nothing_registers_itself():
    none_of([each for path in files("octavo") for each in import_work(path, parsed(path).body)], "work on import")


@pytest.mark.parametrize("line", ["print(1)", "X = open('a')", "@app.command()\ndef f(): ...", "def f(x=load()): ...",
                                  "for x in ():\n    pass", "class A:\n    x = [load(i) for i in ()]"])  # fmt: skip
def test_work_on_import_is_seen(line: str):
    assert list(import_work(Path("wrong.py"), ast.parse(line).body))


def test_files_and_functions_are_small():
    found = []
    for path in files("octavo", "bench", "tests"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 400:
            found.append(f"{path.relative_to(ROOT)} has {lines} lines, the limit is 400")
        for node in ast.walk(parsed(path)):
            if isinstance(node, DEF) and (size := (node.end_lineno or 0) - node.lineno + 1) > 60:
                found.append(f"{at(path, node)} {node.name} has {size} lines, the limit is 60")
    none_of(found, "too long")


def test_three_positional_arguments_at_most():
    """Tensors do not count: they come in a fixed order and their names carry their axes."""
    found = []
    for path in files("octavo", "bench"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, DEF):
                plain = [a for a in (*node.args.posonlyargs, *node.args.args) if name_of(a.annotation) != "Tensor"]
                count = len(plain) - (plain[0].arg in ("self", "cls") if plain else 0)
                if count > 3:
                    found.append(f"{at(path, node)} {node.name} takes {count}")
                if node.args.kwarg:
                    found.append(f"{at(path, node)} {node.name} takes **{node.args.kwarg.arg}")
    none_of(found, "more than 3 positional arguments, or open keywords; name the rest after *")


def code_lines(path: Path) -> list[str]:
    """The lines of a file with single spaces; without blank lines, comments, imports and docstrings."""
    skip: set[int] = set()
    for node in ast.walk(parsed(path)):
        docstring = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            skip |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = path.read_text(encoding="utf-8").splitlines()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    kept = (" ".join(line.split()) for number, line in enumerate(lines, 1) if number not in skip)
    return [line for line in kept if line]


def repeated_share(sources: list[list[str]], *, window: int = 8) -> float:
    """Share of lines, 0..1, that lie in a run of `window` lines which stands somewhere else too."""
    count = Counter(tuple(s[i : i + window]) for s in sources for i in range(len(s) - window + 1))
    repeated = 0
    for source in sources:
        starts = [i for i in range(len(source) - window + 1) if count[tuple(source[i : i + window])] > 1]
        repeated += len({line for start in starts for line in range(start, start + window)})
    return repeated / max(1, sum(map(len, sources)))


@pytest.mark.parametrize("folders", [("octavo",), ("octavo", "bench", "tests")], ids=["package", "everything"])
def test_under_three_percent_of_the_code_is_repeated(folders: tuple[str, ...]):
    share = repeated_share([code_lines(path) for path in files(*folders)])
    assert share < 0.03, f"{share:.1%} of the code lines of {folders} lie in repeated runs of 8 lines"


def test_the_share_of_repeated_lines_is_counted_right():
    unique, shared = [f"a{i}" for i in range(12)], [f"b{i}" for i in range(8)]
    assert repeated_share([unique, shared]) == 0
    assert repeated_share([unique + shared, shared]) == 16 / 28
    assert repeated_share([shared[:7], shared[:7]]) == 0  # seven lines are no window


IMPORT_NAMES = {"markdown-it-py": "markdown_it"}  # where they differ from the package's name


@cache
def dependencies() -> dict[str, tuple[str, ...]]:
    """Module -> the rooms that may import it, from the comments of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = tomllib.loads(text)["project"]["dependencies"]
    rooms = {}
    for line in re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)[0].splitlines():
        fits = re.fullmatch(r'\s*"([A-Za-z0-9_.-]+)[^"]*[<>=][^"]*",\s*# ([^:]+): ([a-z/_, ]+)', line)
        assert fits, f"pyproject.toml: {line.strip()!r} needs a range and a comment `# what for: room, room`"
        rooms[IMPORT_NAMES.get(fits[1], fits[1].replace("-", "_").lower())] = tuple(
            room.strip() for room in fits[3].split(",")
        )
    assert len(rooms) == len(wanted)
    return rooms


THROUGH = {"httptools": "uvicorn"}  # what a dependency imports only where it is there -> that dependency


def test_each_dependency_is_imported_only_in_the_rooms_it_names():
    used, found = set(), []
    for path in files("octavo"):
        place = path.relative_to(ROOT / "octavo").as_posix()
        for node in ast.walk(parsed(path)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{at(path, node)}: write imports in full, from octavo."
                names = [node.module or ""]
            for module in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"octavo"}:
                rooms = dependencies().get(module)
                used.add(module)
                if rooms is None:
                    found.append(f"{at(path, node)} {module} is no dependency of pyproject.toml")
                elif not any(place.startswith((f"{room}/", f"{room}.py")) for room in rooms):
                    found.append(f"{at(path, node)} {module} belongs to {', '.join(rooms)}")
    unused = dependencies().keys() - used - THROUGH.keys()
    found += [f"{module} is never imported: remove it from pyproject.toml" for module in unused]
    found += [f"{module} is here for {user}, which is not" for module, user in THROUGH.items() if user not in used]
    none_of(found, "third-party modules")


def test_everything_public_says_what_it_is():
    found = []
    for path in files("octavo"):
        module = parsed(path)
        if module.body and not ast.get_docstring(module):
            found.append(f"{at(path, module)} the module")
        for node in module.body:
            public = isinstance(node, (*DEF, ast.ClassDef)) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                found.append(f"{at(path, node)} {node.name}")
    none_of(found, "without a docstring")


def test_no_file_knows_the_machine_it_was_written_on():
    paths = r"(?<![\w.~/-])/(?:work|tmp|root|opt|mnt)(?![\w-])"
    hosts = "|".join(
        re.escape(host) for host in ("pypi" + ".org", "python" + "hosted.org", "download." + "pytorch.org")
    )
    pattern, found = re.compile(f"{paths}|{hosts}"), []
    for path in tree():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {text[m.start() - 20 : m.end() + 20]!r}" for m in pattern.finditer(text)]
    none_of(found, "names a path or a host")


def test_every_test_file_has_a_name_of_its_own():
    """Else pytest finds two modules of one name, and none of their tests."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_every_result_names_the_command_that_made_it():
    for path in (ROOT / "bench" / "results").rglob("*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        command = result.get("command") if isinstance(result, dict) else None
        assert isinstance(command, str) and command.startswith(("make ", "python ")), (
            f"{path.relative_to(ROOT)} needs a field command, such as 'make bench'; found {command!r}"
        )


def test_every_figure_that_a_document_cites_is_there():
    for path in (p for p in tree() if p.suffix == ".md"):
        for cited in re.findall(r"bench/results/[\w./-]+\.json", path.read_text(encoding="utf-8")):
            assert (ROOT / cited).is_file(), f"{path.name} cites {cited}, which does not exist"


def test_the_import_contract_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    code = lint_imports(no_cache=True, no_logo=True)
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["import octavo", "from octavo.cli.main import run; run()"], ids=["import", "--help"]
)
def test_the_start_is_instant_and_torch_stays_away(command: str):
    """Under 0.3 s, the interpreter's own start included: the best of 5, for the machine may have other work."""
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", command, "--help"], cwd=ROOT, capture_output=True, text=True)
        seconds.append(time.perf_counter() - begin)
        assert done.returncode == 0, done.stderr
    watched = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {command}"
    done = subprocess.run([sys.executable, "-c", watched, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "False", "torch was imported"
    assert min(seconds) < 0.3, f"took {min(seconds):.2f} s"
