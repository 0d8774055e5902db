"""One SQLite file. Only this room knows apsw, pragmas and cursors."""
