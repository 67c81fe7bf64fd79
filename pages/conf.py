"""Sphinx configuration of the course pages; `python -m pages.build` lays the sources out and runs it."""

import sys
from pathlib import Path
from typing import Any

from myst_nb.core.render import NbElementRenderer
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pages import launch, vendor
from pages.record import stamp
from pages.reference import escape_markup, shorten_types, skip_tuple_fields

project = "From DDPM to Stable Diffusion"
author = "the course's authors"
copyright = (
    "the course's authors: code MIT, images and texts CC BY 4.0, "
    "weights trained on photographs: non-commercial use only"
)

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

default_role = "code"  # docstrings write code between single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False  # the code has annotations, and looking for comments parses every function
napoleon_use_rtype = False

nb_execution_mode = "off"  # the outputs are stored, by pages/execute.py
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables and formulas in Markdown that a cell shows
nb_ipywidgets_js = {
    vendor.script("requirejs"): {"defer": "defer"},  # text and images first
    vendor.script("html-manager"): {
        "data-jupyter-widgets-cdn": f"{vendor.CDN}/",
        "defer": "defer",
    },
}

mathjax_path = vendor.script("mathjax")

repository = launch.repository()

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer", "priority": 900})]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_copy_source = False
html_domain_indices = False  # the reference has a contents list of its own
html_last_updated_fmt = None
exclude_patterns = ["downloads"]
html_context = {"default_mode": "auto"}  # as the reader's system has it
html_theme_options = {
    "navbar_persistent": [],  # the sidebar has the search already
    "use_download_button": False,  # the line under each title has it, without 35 MB of outputs
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "extra_footer": f"<p>{stamp()}</p>" if stamp() else "",
    **({"repository_url": f"https://github.com/{repository}", "use_repository_button": True} if repository else {}),
}


def _describe_pictures() -> None:
    """Give a figure on a page the description that `helpers.show.figures.show` stored beside the image.

    MyST-NB reads descriptions from a cell's metadata alone, which is one for all of the cell's figures.
    """
    render_image = NbElementRenderer.render_image

    def described(self: NbElementRenderer, data: Any) -> list[Any]:
        nodes = render_image(self, data)
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        for node in nodes if alt else []:
            node["alt"] = alt
        return nodes

    NbElementRenderer.render_image = described


_describe_pictures()


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", escape_markup, priority=900)  # after napoleon has read the sections
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("autodoc-process-signature", shorten_types)
