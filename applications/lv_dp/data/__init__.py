"""Short-axis slices with the mask of the left ventricle: loaders, phantom, splits, preprocessing."""

from applications.lv_dp.data.slices import DataError, Slice, SliceSet

__all__ = ["DataError", "Slice", "SliceSet"]
