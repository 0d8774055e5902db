"""Read migration files. The resulting `Migration` objects do not depend on the file format."""
