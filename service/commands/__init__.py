"""What the command line can do besides serving. Each command asks the public API, of a server or of this process.

- start: settings and networks, for all who need them in this process; session: a client of either
- explain, models, bench: the commands; files: which pictures are meant, and what is written of each
"""
