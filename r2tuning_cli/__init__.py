"""The command `r2tuning`: what it is called with. Standard library alone, so that help and errors of usage are instant."""
