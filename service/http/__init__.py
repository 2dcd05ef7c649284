"""The wire: connections, what stands around every request, keys and rates, problems, the OpenAPI document."""
