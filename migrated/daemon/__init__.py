"""The daemon that `migrated run` and `migrated dev` start."""
