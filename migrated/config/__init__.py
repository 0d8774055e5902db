"""Configuration: the settings as values, the TOML file, and where it is looked for."""
