"""What can be seen from outside: a line in the log, the metrics and the traces, all told of each request at its end."""
