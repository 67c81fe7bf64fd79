"""Links: every one has the form of what it leads to; what lies in the repository is there; every term is linked."""

import re
from pathlib import Path

import pytest

from pages.execute import NOTEBOOKS
from pages.prose import anchor, links, texts
from pages.record import ROOT

TEXTS = texts()
FORMS = {  # host -> what follows it
    "arxiv.org": r"/abs/\d{4}\.\d{4,5}",
    "github.com": r"/[\w.-]+/[\w.-]+(/(issues|pull|blob|tree)/[\w./-]+)?",
    "huggingface.co": r"/[\w.-]+/[\w.-]+(/[\w./-]+)?",
    "openreview.net": r"/forum\?id=[\w-]+",
    "www.kaggle.com": r"/datasets/[\w-]+/[\w-]+",
    "openai.com": r"/index/[\w-]+/",
    "creativecommons.org": r"/licenses/[\w/.-]+/",
}


def folder_of(name: str) -> Path:
    """Where a text's relative links start; the first page is laid out at the root of the site."""
    if name in ("README.md", "pages/index.md"):
        return ROOT
    return ROOT / "pages" if name.startswith("pages/") else NOTEBOOKS / ("solutions" if "solutions" in name else "")


@pytest.mark.parametrize("name", TEXTS)
def test_links_have_the_form_of_what_they_lead_to(name: str) -> None:
    for link in links(TEXTS[name]):
        if ":" in link:
            match = re.fullmatch(r"https://([\w.-]+)(/\S*)?", link)
            assert match, f"{link}: not an https address"
            form = FORMS.get(match[1], r"(/[\w.~%/?=&#+-]*)?")
            assert re.fullmatch(form, match[2] or ""), f"{link}: at {match[1]} addresses look like {form}"


@pytest.mark.parametrize("name", TEXTS)
def test_what_lies_in_the_repository_is_there(name: str) -> None:
    for link in links(TEXTS[name]):
        if ":" in link:
            continue
        place, _, part = link.partition("#")
        target = (folder_of(name) / place).resolve() if place else ROOT / name
        if target == ROOT / "pages" / "reference" / "index.md":  # made with the pages, from the docstrings
            continue
        assert target.exists() and target.is_relative_to(ROOT), f"{link}: there is no {target}"
        if part and target.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert part in map(anchor, headings), f"{link}: {target.name} has no such heading"


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "README.md"])
def test_nothing_leads_to_a_file_that_the_pages_lack(name: str) -> None:
    inside = [link for link in links(TEXTS[name]) if ":" not in link]
    sources = [link for link in inside if re.match(r"(\.\./)*(helpers|benchmarks|tests)/", link)]
    assert sources == [], "the pages hold no source files: name the file in code font"


def test_every_term_of_the_glossary_is_linked_from_the_notebooks_it_names() -> None:
    entries = re.findall(r"^### (.+)\n\n(.+)$", TEXTS["pages/glossary.md"], flags=re.MULTILINE)
    assert len(entries) >= 60
    for term, text in entries:
        users = [name for name, prose in TEXTS.items() if f"../pages/glossary.md#{anchor(term)})" in prose]
        named = [Path(link).stem for link in links(text)]
        assert users and users == named, f"{term}: linked from {users}, the glossary names {named}"
    terms = [term for term, _ in entries]
    assert terms == sorted(terms, key=str.lower)


def test_links_are_found_and_told_from_code() -> None:
    text = "[a](https://b.org/c_(d)) `[no](x)` ![e](f.png)\n[*g* [h]](i.md#j)"
    assert links(text) == ["https://b.org/c_(d)", "f.png", "i.md#j"]
