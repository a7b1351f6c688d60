"""The house stands: imports run downwards, folders are small, each says what it is for."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_FILES = 15  # of a folder's own
NAMED = re.compile(r"(?<![\w./:])\w+(?:/\w+)+\.py\b")  # a file, by its path
SHARED = ("subp_contract", "subp_quantizer")  # by both halves: a box each
# From the bottom to the top; a box may import those below it. Boxes are packages, or modules at the top of one.
DEPLOYMENT = (
    "runtime_library lost_pool runtime quiet signature targets kernels planning records passes frontend codegen "
    "precision pipeline mixed_precision estimation deploy products verification dump compiler dynamo tuning bench"
)
TRAINING = "common sparse_products pruning models integrations data training deployment cli"
ORDER = [
    "subp_contract",
    "subp_quantizer",
    "tvm_sched",  # holds names that are imported on first use, and `runtime`
    *(f"tvm_sched.{box}" for box in DEPLOYMENT.split()),
    *(f"subp.{box}" for box in TRAINING.split()),
    "subp",
]
MEETING = ("subp.deployment", "subp.cli", "subp.sparse_products")  # the only boxes of training that know of deployment


def modules() -> dict[str, Path]:
    """Module -> its file."""
    files = [path for top in (*SHARED, "tvm_sched", "subp") for path in (ROOT / top).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """The modules of the project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


def box(module: str) -> str:
    """The box that a module stands in."""
    top, *rest = module.split(".")
    return top if top in SHARED else ".".join([top, *rest[:1]])


@pytest.fixture(scope="module")
def across() -> list[tuple[str, str]]:
    """(box, another that it imports)"""
    arrows = sorted({(box(module), box(name)) for module, path in MODULES.items() for name in imported(path)})
    return [(above, below) for above, below in arrows if above != below]


@pytest.mark.parametrize("module", sorted(set(map(box, MODULES)) - {"subp.__main__"}))
def test_every_box_has_its_place(module):
    assert module in ORDER


def test_imports_run_downwards(across):
    known = [arrow for arrow in across if arrow != ("tvm_sched", "tvm_sched.runtime") and arrow[0] in ORDER]
    wrong = [(above, below) for above, below in known if ORDER.index(above) < ORDER.index(below)]
    assert wrong == []


def test_training_and_deployment_meet_in_three_places(across):
    assert {above for above, below in across if above.startswith("subp.") and below.startswith("tvm_sched")} <= set(
        MEETING
    )
    assert not [arrow for arrow in across if arrow[0].startswith("tvm_sched") and arrow[1].startswith("subp.")]
    assert [arrow for arrow in across if arrow[0] in SHARED] == [("subp_quantizer", "subp_contract")]


def test_folders_are_small_and_say_what_they_are_for():
    files = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): count for folder, count in files.items() if count > MOST_FILES} == {}
    for folder in {path.parent for path in MODULES.values()}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        assert len(text.split()) >= 10, f"{folder.relative_to(ROOT)} does not say what lives there"


def test_no_file_grows_past_an_idea():
    assert {name: lines for name, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > 400} == {}


def test_files_that_are_named_are_there():
    """In code, comments and documentation, by a path with a folder in it; others' by 'tvm/...'."""
    tops = ("subp", "subp_contract", "subp_quantizer", "tvm_sched", "scripts", "docs", "examples", "tests")
    here = [path for top in tops for path in (ROOT / top).rglob("*.*") if path.suffix in (".py", ".md", ".h", ".cc")]
    known = {str(path.relative_to(ROOT)) for path in here}
    ends = known | {name.split("/", count)[-1] for name in known for count in range(1, name.count("/"))}
    read = [path for path in here if path.parts[len(ROOT.parts)] != "tests"] + list(ROOT.glob("*.md"))
    named = {(str(path.relative_to(ROOT)), name) for path in read for name in NAMED.findall(path.read_text())}
    assert {each for each in named if each[1] not in ends and not each[1].startswith(("tvm/", "path/"))} == set()
