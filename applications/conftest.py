"""Docstrings are tested where their module can be imported: the Triton backend only beside Triton."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["lv_dp/dynamic_programming/triton_backend.py"]
