"""Settings of the manual: MyST pages, furo, the reference from docstrings, tables made from the source."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import terrazzo

project = "Terrazzo"
author = "The Terrazzo authors"
copyright = "the Terrazzo authors"
release = version = terrazzo.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "engine_table", "error_table"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"Terrazzo {release}"
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
napoleon_use_ivar = True
myst_heading_anchors = 3
