"""Structured logs: the events, how a line is rendered, and where it is written."""
