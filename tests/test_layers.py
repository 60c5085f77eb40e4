"""The house: imports go downwards only, importing costs nothing, help is quick."""

import ast
import functools
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "e2rank_pyserini"
LAYERS = [
    {
        "types",
        "choices",
        "numerals",
        "timing",
        "aside",
        "inference.pieces",
        "fingerprint",
        "inference.delta",
        "inference.gguf_files",
        "inference.tally",
        "losses",
        "inference.elementwise",
        "training.processes",
    },
    {"ahead", "storage", "inference.fused", "inference.attention", "declared", "inference.devices"},
    {"prompts", "trec", "java"},
    {"topics", "directories", "docids", "kinds", "catalog", "training.log"},
    {"sealed", "journal"},
    {
        "corpus",
        "exclusions",
        "inference.tokens",
        "inference.places",
        "inference.packed",
        "index",
        "evaluation",
        "retrieval",
        "reranking",
        "provenance",
        "training.examples",
        "forms",
    },
    {
        "carried",
        "inference.loading",
        "inference.forward",
        "comparison",
        "feedback",
        "integrity",
        "serving.texts",
        "serving.answering",
        "serving.gate",
        "bench.material",
        "bench.yardstick",
    },
    {
        "datasets",
        "encoder",
        "inference.writing",
        "table.published",
        "report.findings",
        "serving.batching",
        "serving.exchange",
    },
    {"table.benchmarks", "report.markup", "report.plots", "serving.app", "remembering"},
    {"report.captions", "training.recipe", "training.state", "mteb.instructions"},
    {
        "training.sampling",
        "mteb.model",
        "training.network",
        "training.step",
        "training.dev",
        "report.pictures",
        "export",
        "bench.arithmetic",
    },
    {"training.teacher"},
    {"training.train", "report.page"},
    {"shards.folder"},
    {"shards.encoding", "shards.sharded"},
    {"shards.worker"},
    {"shards.workers"},
    {
        "shards.ray_engine",
        "indexing",
        "pyserini.bm25",
        "pyserini.options",
        "training.mining",
        "training.labelling",
        "training.endpoint",
    },
    {"pyserini.encoders", "pyserini.feedback", "training.answers"},
    {"pyserini.hooks"},
    {"pyserini.runner", "pyserini.main", "pyserini.pth"},
    {"commands.inputs"},
    {"commands.opening", "commands.outputs", "mteb.evaluation", "bench.encoders", "bench.rerankers"},
    {
        "commands.refining",
        "commands.judged",
        "table.freshness",
        "training.ranking",
        "bench.encode",
        "bench.rerank",
        "commands.options",
    },
    {"training.making"},
    {
        "commands.plain",
        "commands.index_command",
        "commands.check_command",
        "commands.compare_command",
        "commands.report_command",
        "mteb.mteb_command",
        "commands.rerank_command",
        "commands.rerun_command",
        "serving.serve_command",
        "table.table_command",
        "bench.bench_command",
        "commands.convert_command",
        "commands.export_command",
        "training.data_command",
        "training.train_command",
    },
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


@functools.cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__"):
            found[name] = ast.parse(path.read_text())
    return found


def imported(tree: ast.Module) -> set[str]:
    """The modules of ours that a module imports, at its head or inside a function."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("e2rank_pyserini"):
            inside = node.module.partition(".")[2]
            names |= {f"{inside}.{alias.name}".strip(".") for alias in node.names} | {inside}
    return {name for name in names if name in LEVEL}


def test_every_module_has_a_layer():
    assert set(modules()) == set(LEVEL)


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_go_downwards(name: str):
    above = {other for other in imported(modules()[name]) if LEVEL[other] >= LEVEL[name]}
    assert not above, f"{name} imports {above}"


def test_packages_import_in_no_circle():
    house: dict[str, set[str]] = {}
    for name, tree in modules().items():
        room = name.partition(".")[0]
        house.setdefault(room, set()).update({other.partition(".")[0] for other in imported(tree)} - {room})
    order = list(TopologicalSorter(house).static_order())  # CycleError names the circle
    assert order[-1] == "__main__"


def test_only_its_own_rooms_import_pyserini():
    allowed = {"pyserini.bm25", "pyserini.encoders", "pyserini.feedback", "corpus", "datasets", "bench.encoders"}
    for name, tree in modules().items():
        direct = {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module is not None
        }
        if any(module.split(".")[0] == "pyserini" for module in direct):
            assert name in allowed


def test_rooms_are_small():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, f"{path.name}: two rooms?"


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nimport json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(out.stdout.splitlines()[-1]))


def test_importing_starts_nothing():
    heavy = {"torch", "numpy", "transformers", "faiss", "jnius", "pyserini", "yaml"}
    assert not heavy & loaded_by("import e2rank_pyserini, e2rank_pyserini.cli")


def test_help_loads_nothing_heavy():
    statement = "import e2rank_pyserini.cli as c\ntry: c.main(['rerank', '--help'])\nexcept SystemExit: pass"
    assert not {"torch", "numpy", "transformers", "faiss", "jnius"} & loaded_by(statement)


def test_every_public_name_is_there():
    import e2rank_pyserini
    from e2rank_pyserini import evaluation, reranking, retrieval  # noqa: F401  submodules must not shadow names

    for name in e2rank_pyserini.__all__:
        value = getattr(e2rank_pyserini, name)
        assert callable(value)
        assert value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = e2rank_pyserini.nothing


def test_type_checkers_find_every_public_name_at_its_home():
    import e2rank_pyserini

    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert isinstance(checked.test, ast.Name)
    assert checked.test.id == "TYPE_CHECKING"
    homes = {
        alias.asname: (alias.name, node.module)  # `as` its own name: mypy --strict takes it as given on
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == {name: (name, f"e2rank_pyserini.{home}") for name, home in e2rank_pyserini._HOMES.items()}


def test_notebooks_complete_the_public_names_before_any_is_loaded():
    listed = "import e2rank_pyserini as e, sys; assert {*e.__all__, '__version__'} <= set(dir(e))"
    assert not {"torch", "numpy"} & loaded_by(listed)
