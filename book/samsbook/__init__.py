"""What the book's chapters and builds share: checked parameters, results with provenance, the grid of runs, comparison,
build, checks, benchmarks. The library knows nothing of it.

`python -m samsbook run chapters/02_inference.ipynb` reruns a chapter; `python -m samsbook.build` builds the pages.
"""

import warnings

from samsbook.parameters import ParameterError, check_parameters
from samsbook.results import provenance, provenance_table, read_results, results_path, root, show, write_results

__all__ = [
    "ParameterError",
    "check_parameters",
    "provenance",
    "provenance_table",
    "read_results",
    "results_path",
    "root",
    "show",
    "write_results",
]

warnings.filterwarnings("ignore", "IProgress not found")  # pages show no bars, and a package asks for widgets that do
