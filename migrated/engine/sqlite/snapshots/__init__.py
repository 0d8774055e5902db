"""Snapshots of a SQLite database: taken, listed, restored, and the base of a rebuild."""
