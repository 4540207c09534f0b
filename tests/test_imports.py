from __future__ import annotations

import subprocess
import sys


def test_import_loads_nothing_heavy_beside_torch() -> None:
    code = "import ndgrad, sys; print([name for name in ('matplotlib', 'networkx', 'scipy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
