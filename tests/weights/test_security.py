"""No code that comes with weights is run: pickles are read as data, and custom code needs a consent."""

import ast
import json

import pytest

from benchmarks import house
from pages.execute import notebooks
from pages.record import ROOT

HUB_LOADERS = ("AutoModel", "AutoTokenizer", "AutoProcessor", "AutoModelForImageTextToText", "AutoConfig", "pipeline")


def sources() -> dict[str, str]:
    """The code of the packages and of every notebook, by path."""
    code = dict(house.read_sources("helpers", "benchmarks", "pages"))
    for path in notebooks():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "code":
                code[f"{path.name} {cell.get('id', number)}"] = "".join(cell["source"])
    return code


def calls(source: str) -> list[ast.Call]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell with magics
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def unsafe(source: str) -> list[str]:
    """Calls that may run code from a file: torch.load and pickle as a program, hub models without a refusal of code."""
    found_calls = []
    for call in calls(source):
        name = ast.unparse(call.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load" and options.get("weights_only") != "True":
            found_calls.append(name)
        if name.startswith(("pickle.load", "torch.hub.load")) or (
            name == "np.load" and options.get("allow_pickle") == "True"
        ):
            found_calls.append(name)
        loader, _, method = name.rpartition(".")
        refuses = options.get("trust_remote_code") == "False" or '"trust_remote_code": False' in source
        consents = "if source and consent:" in source
        if method == "from_pretrained" and loader in HUB_LOADERS and not (refuses or consents):
            found_calls.append(name)
    return found_calls


def test_nothing_runs_code_from_a_file():
    assert {path: names for path, source in sources().items() if (names := unsafe(source))} == {}


def test_custom_code_is_trusted_in_a_single_cell_and_with_a_consent():
    trusting = [path for path, source in sources().items() if '"trust_remote_code": True' in source]
    trusting += [path for path, source in sources().items() if "trust_remote_code=True" in source]
    assert len(trusting) == 1 and trusting[0].startswith("15_")
    assert sources()[trusting[0]].startswith("if source and consent:")


@pytest.mark.parametrize(
    "source",
    [
        "torch.load('x.pt')",
        "torch.load('x.pt', weights_only=False)",
        "pickle.loads(data)",
        "np.load('x.npy', allow_pickle=True)",
        "AutoModel.from_pretrained(source)",
        "AutoProcessor.from_pretrained(source, trust_remote_code=True)",
        "torch.hub.load('owner/name', 'model')",
    ],
)
def test_an_unsafe_call_is_noticed(source):
    assert unsafe(source)


def test_hub_models_are_loaded_somewhere():
    """Else the search above would find nothing because it looks in the wrong places."""
    assert any("AutoProcessor.from_pretrained" in source for source in sources().values())
    assert (ROOT / "helpers").is_dir()
