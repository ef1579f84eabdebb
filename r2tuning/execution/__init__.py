"""Work on jobs that make one file each: in this process, in several local processes, or on a Ray cluster."""
