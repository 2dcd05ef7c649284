"""Routes of other servers' protocols, for callers who speak those: each reads and writes, the flow is the handler's."""
