"""Formats of migration files, one module per format."""
