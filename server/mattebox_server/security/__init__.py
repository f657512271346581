"""Bearer tokens, TLS, and the files that hold their secrets."""
