"""Routes of other servers' protocols, for their clients. Each reads bodies and writes replies; the flow is the same."""
