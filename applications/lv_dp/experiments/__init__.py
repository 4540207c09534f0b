"""Every table and figure of the thesis, and ablations: ``python -m applications.lv_dp reproduce NAME``."""
