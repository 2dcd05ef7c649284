"""Logs, metrics and traces. Each is updated once a request has ended."""
