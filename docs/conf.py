"""Sphinx configuration: ``make docs`` builds the site into docs/_build/html."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]  # the checkout itself is what is documented

import matplotlib
import torch

import ndgrad

matplotlib.use("agg")
torch.set_num_threads(1)

project = "ndgrad"
author = "the ndgrad developers"
copyright = author
version = release = ndgrad.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "matplotlib.sphinxext.plot_directive",
    "mathml",
    "shortnames",
    "pages",
]
exclude_patterns = [
    "_build",
    "tutorials/*",
    "figures",
    "README.md",
]  # tutorials are read from what they print
templates_path = ["_templates"]
nitpicky = True
# Not documented here: torch's and the standard library's own names, and type variables inside signatures.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|nn|nx|networkx|matplotlib|collections|typing|pathlib)(\..*)?"),
    (
        "py:.*",
        r"(Any|Callable|Figure|Axes|Generator|Literal|Mapping|None|Self|Sequence|Tensor|Unpack|optional)",
    ),
    ("py:.*", r"(Module|Optimizer|Parameter|abc\.ABC|Options|ndgrad\..*\.(Options|KeepsGenerator))"),
]
default_role = "py:obj"

myst_enable_extensions = ["attrs_block", "dollarmath", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # signatures have them in the source; types are described in the text
autodoc_member_order = "bysource"
autosummary_generate = True
autosummary_ignore_module_all = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

doctest_global_setup = "import numpy as np, torch, ndgrad"
doctest_test_doctest_blocks = ""  # docstrings are run by pytest, pages by `make docs`

plot_include_source = False
plot_html_show_formats = False
plot_html_show_source_link = True
plot_formats = ["svg"]
plot_rcparams = {
    "svg.hashsalt": "ndgrad",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}
plot_apply_rcparams = True

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials"],
    "gallery_dirs": ["generated/tutorials"],
    "filename_pattern": r"/\d\d_",
    "ignore_pattern": r"__init__\.py",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "only_warn_on_example_error": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "reset_modules": ("matplotlib", "fresh.reset"),
    "backreferences_dir": None,
    "doc_module": ("ndgrad",),
    "min_reported_time": 1,
    "write_computation_times": False,  # its page fetches scripts from the network
    "show_signature": False,
    "capture_repr": (),
    "matplotlib_animations": False,
}
suppress_warnings = ["config.cache"]  # a function among the settings of the gallery cannot be pickled

html_theme = "furo"
html_title = "ndgrad"
html_static_path = ["_static"]
html_css_files = ["ndgrad.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
