"""The exact closed-contour dynamic program, in three backends with the same results to the bit."""

from applications.lv_dp.dynamic_programming.solver import Backend, available_backends, solve

__all__ = ["Backend", "available_backends", "solve"]
