"""Comparisons of the gradient estimators, with references that do not depend on them."""
