"""Rules of the source tree, read off the import statements; nothing is imported here."""

import ast
import re
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "modeling_r2tuning"
SCRIPTS = {"train", "tests", "benchmarks", "examples"}
OTHERS = {"r2tuning", "r2tuning_cli", "dataset_scripts", "hub_cards", *SCRIPTS}
FILES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
# The files of the classes that are registered for the Hub: with all that they reach, they travel with a checkpoint.
ENTRIES = ["configuration_r2tuning", "modeling_r2tuning", "processing_r2tuning", "pipeline_r2tuning"]
# What every user of a checkpoint must have; transformers itself depends on safetensors.
THIRD_PARTY = {"torch", "numpy", "transformers", "huggingface_hub", "safetensors"}
METHOD_IMPORTS = {"configuration_r2tuning", "method_base_r2tuning"}
# Own files that a file may import.
ALLOWED = {
    "method_specs_r2tuning": set(),
    "tower_specs_r2tuning": set(),
    "configuration_r2tuning": {"method_specs_r2tuning", "tower_specs_r2tuning"},
    "points_r2tuning": set(),
    "fused_pooling_r2tuning": {"precision_r2tuning"},
    "fused_projection_r2tuning": {"precision_r2tuning"},
    "projection_r2tuning": {"configuration_r2tuning", "fused_projection_r2tuning", "precision_r2tuning"},
    "precision_r2tuning": set(),
    "read_ahead_r2tuning": set(),
    "int8_r2tuning": set(),
    "method_base_r2tuning": set(),
    "towers_r2tuning": {
        f"{name}_r2tuning"
        for name in ("configuration", "fingerprint", "loading", "method_base", "precision", "tower_specs")
    },
    "options_r2tuning": set(),
    "files_r2tuning": set(),
    "user_inputs_r2tuning": set(),
    "containers_r2tuning": set(),
    "video_source_r2tuning": {"containers_r2tuning"},
    "loading_r2tuning": {"tower_specs_r2tuning"},
    "video_entries_r2tuning": set(),
    "mp4_tables_r2tuning": set(),
    "video_timeline_r2tuning": {"containers_r2tuning", "mp4_tables_r2tuning", "video_entries_r2tuning"},
    "video_rendering_r2tuning": {"containers_r2tuning"},
    "video_selection_r2tuning": {"containers_r2tuning", "video_rendering_r2tuning", "video_timeline_r2tuning"},
    "video_sound_r2tuning": {"containers_r2tuning"},
    "video_cutting_r2tuning": {
        f"{name}_r2tuning" for name in ("containers", "video_selection", "video_sound", "video_timeline")
    },
    "video_io_r2tuning": {f"{name}_r2tuning" for name in ("containers", "files")}
    | {f"video_{name}_r2tuning" for name in ("cutting", "rendering", "selection", "source", "timeline")},
    "encoding_r2tuning": {"files_r2tuning"},
    "windows_r2tuning": set(),
    "grounding_r2tuning": {"encoding_r2tuning", "heads_r2tuning", "points_r2tuning"},
    "fingerprint_r2tuning": set(),
    "distributed_r2tuning": set(),
    "losses_r2tuning": {f"{name}_r2tuning" for name in ("configuration", "distributed", "points")},
    "inputs_r2tuning": {"configuration_r2tuning", "losses_r2tuning"},
    "decoding_r2tuning": {"points_r2tuning"},
    "block_r2tuning": {f"{name}_r2tuning" for name in ("configuration", "fused_pooling", "projection")},
    "heads_r2tuning": {"configuration_r2tuning", "points_r2tuning"},
    "method_e3va_r2tuning": METHOD_IMPORTS | {"block_r2tuning", "towers_r2tuning"},
    "method_losa_r2tuning": METHOD_IMPORTS | {"block_r2tuning"},
    "method_st_adapter_r2tuning": METHOD_IMPORTS | {"block_r2tuning"},
    "method_lst_r2tuning": METHOD_IMPORTS,
    "method_vpt_r2tuning": METHOD_IMPORTS,
    "method_vop_r2tuning": METHOD_IMPORTS | {"method_vpt_r2tuning", "precision_r2tuning"},
    "method_lora_r2tuning": {"configuration_r2tuning", "files_r2tuning", "loading_r2tuning", "towers_r2tuning"},
    "methods_r2tuning": METHOD_IMPORTS
    | {"method_specs_r2tuning", "towers_r2tuning"}
    | {f"method_{name}_r2tuning" for name in ("e3va", "lora", "losa", "lst", "st_adapter", "vop", "vpt")},
    "modeling_r2tuning": {
        f"{name}_r2tuning"
        for name in ("block", "configuration", "files", "fingerprint", "grounding_mixin", "heads", "inputs", "loading")
    }
    | {
        f"{name}_r2tuning"
        for name in ("int8", "losses", "method_lora", "methods", "precision", "tower_specs", "towers")
    },
    "grounding_mixin_r2tuning": {
        f"{name}_r2tuning"
        for name in (
            "block",
            "configuration",
            "encoding",
            "fingerprint",
            "grounding",
            "heads",
            "inputs",
            "method_base",
        )
    }
    | {f"{name}_r2tuning" for name in ("methods", "read_ahead", "towers", "windows")},
    "processing_r2tuning": {
        f"{name}_r2tuning"
        for name in ("containers", "decoding", "loading", "options", "tower_specs", "user_inputs", "video_io")
    },
    "pipeline_r2tuning": {f"{name}_r2tuning" for name in ("loading", "options", "processing", "user_inputs")},
}


def parse(name):
    return ast.parse((PACKAGE / f"{name}.py").read_text())


def imports(tree):
    """Import statements in `tree`, as (number of dots, module)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def own_imports(name):
    return {module for level, module in imports(parse(name)) if level}


def third_parties(tree):
    packages = {module.split(".")[0] for level, module in imports(tree) if not level}
    return packages - set(sys.stdlib_module_names)


def carried():
    """Files that are copied with a checkpoint."""
    return reach(set(ENTRIES))


def reach(names):
    """Files that these ones import, directly or not, and they themselves."""
    found, new = set(), names
    while new:
        found |= new
        new = set().union(*(own_imports(name) for name in new)) - found
    return found


@pytest.mark.parametrize("name", FILES)
def test_own_files_are_imported_from_beside(name):
    """`from .name_r2tuning import x` is the only form whose file transformers copies and finds again."""
    for level, module in imports(parse(name)):
        if level:
            assert level == 1
            assert module in FILES
        else:
            assert module.split(".")[0] not in {PACKAGE.name, *OTHERS}


@pytest.mark.parametrize("name", FILES)
def test_no_text_looks_like_an_import(name):
    """transformers searches line by line, docstrings and comments included."""
    text = (PACKAGE / f"{name}.py").read_text()
    lines = re.findall(r"^\s*(?:from|import)\s+\.", text, flags=re.MULTILINE)
    assert len(lines) == len([level for level, _ in imports(parse(name)) if level])


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_go_one_way(name):
    assert own_imports(name) <= ALLOWED[name]


def test_the_folder_holds_what_a_checkpoint_needs():
    assert carried() == ALLOWED.keys() == set(FILES)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_checkpoint_needs_no_more_than_everybody_has(name):
    """Optional packages, the video decoder above all, are imported in the function that uses them."""
    tree = parse(name)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    statements = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    for statement in statements:
        assert id(statement) in inside or third_parties(statement) <= THIRD_PARTY, ast.unparse(statement)


@pytest.mark.parametrize("name", ["points_r2tuning", "distributed_r2tuning", "losses_r2tuning", "decoding_r2tuning"])
def test_pure_functions_need_torch_alone(name):
    assert third_parties(parse(name)) == {"torch"}


def test_descriptions_of_methods_need_the_standard_library_alone():
    assert third_parties(parse("method_specs_r2tuning")) == set()


def test_the_configuration_needs_no_torch():
    assert third_parties(parse("configuration_r2tuning")) == {"transformers", "huggingface_hub"}


# ---- the other folders ----


def modules_of(path):
    """Packages that a file imports, without those of its own folder."""
    return {module.split(".")[0] for level, module in imports(ast.parse(path.read_text())) if not level}


@pytest.mark.parametrize("path", sorted((ROOT / "dataset_scripts").rglob("*.py")), ids=lambda path: path.stem)
def test_datasets_and_metrics_need_no_model(path):
    models = {"torch", "transformers", "safetensors", "modeling_r2tuning", "r2tuning", "r2tuning_cli"}
    assert not modules_of(path) & models


BUILDERS = [*(ROOT / "dataset_scripts").glob("*.py"), ROOT / "dataset_scripts/moving_shapes/builder.py"]


@pytest.mark.parametrize("path", sorted(BUILDERS), ids=lambda path: path.stem)
def test_reading_annotations_needs_numpy_and_datasets_alone(path):
    """At import: PyAV and h5py are imported where a video or a .mat file is read."""
    statements = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert third_parties(ast.Module(statements, type_ignores=[])) <= {"numpy", "datasets", "dataset_scripts"}


def test_the_settings_of_benchmarks_need_the_standard_library_alone():
    """The command line reads them."""
    assert not third_parties(ast.parse((ROOT / "dataset_scripts/benchmarks.py").read_text()))


@pytest.mark.parametrize("path", sorted((ROOT / "dataset_scripts/metrics").glob("*.py")), ids=lambda path: path.stem)
def test_metrics_know_no_dataset(path):
    """Only `scoring.py` knows the benchmarks, and only the modules for `evaluate.load` import the slow `evaluate`."""
    tree = ast.parse(path.read_text())
    modules = {"moment_retrieval", "highlight_detection", "summarization", "schema_metric"}
    found = third_parties(tree)
    if path.stem == "scoring":
        others = {module for _, module in imports(tree) if module.startswith("dataset_scripts")}
        assert others == {"dataset_scripts.benchmarks"}
        found.remove("dataset_scripts")
    assert found <= {"numpy"} | ({"datasets", "evaluate"} if path.stem in modules else set())
    assert all(level <= 1 for level, _ in imports(tree)), "metrics import nothing from the folder above"


# Folders of `r2tuning` from the bottom up: a file imports from its own folder and those below it.
LAYERS = [
    {"checkpoint_files", "checks", "json_files", "terminal"},
    {"editors", "hub", "visualization"},
    {"released"},
    {"execution"},
    {"export", "features"},
    {"library"},
    {"app", "evaluation"},
    {"training", "pretraining"},
    {"commands"},
]


@pytest.mark.parametrize("path", sorted((ROOT / "r2tuning").rglob("*.py")), ids=lambda path: path.stem)
def test_the_package_has_layers(path):
    parts = path.relative_to(ROOT / "r2tuning").with_suffix("").parts
    if parts[0] == "__init__":
        return
    own = next(number for number, names in enumerate(LAYERS) if parts[0] in names)
    for level, module in imports(ast.parse(path.read_text())):
        assert level < len(parts), "relative imports stay in the folder"
        words = module.split(".")
        if not level and words[0] == "r2tuning":
            layer = next(number for number, names in enumerate(LAYERS) if words[1] in names)
            assert layer < own or words[1] == parts[0], module


@pytest.mark.parametrize("path", sorted((ROOT / "r2tuning_cli").glob("*.py")), ids=lambda path: path.stem)
def test_the_command_line_needs_the_standard_library_alone(path):
    """So that help and errors of usage are instant; what a command needs is imported when it is run."""
    for level, module in imports(ast.parse(path.read_text())):
        if not level:
            assert module.split(".")[0] in sys.stdlib_module_names or module == "dataset_scripts.benchmarks", module


def test_what_travels_with_an_export_needs_no_torch():
    """The runner, and the decoder: all that `video_io_r2tuning` reaches."""
    runner = ast.parse((ROOT / "r2tuning/export/runner.py").read_text())
    assert third_parties(runner) == {"numpy", "onnxruntime", "tokenizers", "modeling_r2tuning", "decoder"}
    [travelling] = [
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "r2tuning/export/folder.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DECODER_FILES"
    ]
    assert set(travelling) == reach({"video_io_r2tuning"})
    for name in travelling:
        assert third_parties(parse(name)) <= {"av", "numpy"}


@pytest.mark.parametrize("name", ["card_text", "repository"])
def test_what_models_and_datasets_share_on_the_hub_knows_neither(name):
    tree = ast.parse((ROOT / f"r2tuning/hub/{name}.py").read_text())
    assert third_parties(tree) <= {"huggingface_hub", "yaml", "r2tuning"}
    own = {module for _, module in imports(tree) if module.startswith("r2tuning")}
    assert own <= {"r2tuning.checkpoint_files"}


def test_cards_are_data_alone():
    [path] = (ROOT / "hub_cards").glob("*.py")
    assert path.name == "__init__.py"
    assert not list(imports(ast.parse(path.read_text())))


def test_the_handler_of_endpoints_needs_what_every_user_of_a_checkpoint_has():
    handler = ast.parse((ROOT / "hub_cards/endpoint/handler.py").read_text())
    assert third_parties(handler) <= THIRD_PARTY
    assert all(level == 0 for level, _ in imports(handler))


def test_the_app_of_a_space_needs_the_package_alone():
    assert third_parties(ast.parse((ROOT / "hub_cards/space/app.py").read_text())) == {"r2tuning"}


@pytest.mark.parametrize("path", sorted((ROOT / "train").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_need_the_standard_library_alone(path):
    """So that one that finds no `r2tuning` can say so; `checkout` imports it by name."""
    allowed = set() if path.stem == "checkout" else {"checkout"}
    assert third_parties(ast.parse(path.read_text())) == allowed


@pytest.mark.parametrize("folder", ["benchmarks", "examples"])
def test_what_runs_in_the_checkout_does_not_need_the_tests(folder):
    paths = list((ROOT / folder).rglob("*.py"))
    helpers = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    assert paths
    for path in paths:
        assert not modules_of(path) & {*(SCRIPTS - {folder}), *helpers, "pytest"}, path


@pytest.mark.parametrize("folder", ["modeling_r2tuning", "dataset_scripts", "r2tuning", "r2tuning_cli"])
def test_what_is_installed_does_not_need_the_checkout(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not modules_of(path) & SCRIPTS, path
