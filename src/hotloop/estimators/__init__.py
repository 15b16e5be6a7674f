"""Estimators: one file for each family."""
