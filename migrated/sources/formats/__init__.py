"""The formats of migration files, one module a format."""
