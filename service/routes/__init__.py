"""The service's own routes: each declares its options and its OpenAPI document."""
