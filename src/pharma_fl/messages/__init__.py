"""What partner and coordinator say to each other: the whole of what may leave either."""
