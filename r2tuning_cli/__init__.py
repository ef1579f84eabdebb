"""The command `r2tuning` and its arguments; imports only the standard library, so that help is instant."""
