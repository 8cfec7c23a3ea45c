"""Sphinx configuration; notebooks are copied here and executed while the site is built."""

import os
import shutil
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
os.environ["PLOTLY_RENDERER"] = "notebook"  # figures as HTML, which a page can show
(HERE / "notebooks").mkdir(exist_ok=True)
for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
    shutil.copy(notebook, HERE / "notebooks" / notebook.name)

project = "icl_locate"
author = "The icl_locate authors"
copyright = "2026, the icl_locate authors"
release = version = package_version("icl_locate")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "jupyter_execute", "*_table.md"]
html_theme = "furo"
html_title = "icl_locate"
html_static_path = ["_static"]
html_css_files = ["figures.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_excludepatterns = []


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", escape_axes, priority=900)  # after napoleon


def escape_axes(*told: Any) -> None:
    """The axes of a type, such as ``'*cell seed'``, are no emphasis."""
    lines = told[-1]
    for i, line in enumerate(lines):
        if line.startswith(":vartype"):
            lines[i] = line.replace("'*", r"'\*")
