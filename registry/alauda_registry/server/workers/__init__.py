"""The processes that serve: a worker, and what keeps several of them behind one socket."""
