"""Who is let in, what runs next, and the one thread that runs it."""
