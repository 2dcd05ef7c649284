"""More than one machine: the service as an application of Ray Serve, which places, watches and scales it."""
