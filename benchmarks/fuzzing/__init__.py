"""Damaged and hostile input files, the loaders they are given to, and a process that watches what comes of it."""
