"""Callers that overload, break off and mistreat a server: the parts of `make bench-faults`."""
