"""The command `r2tuning`: its entry point and its arguments. Nothing here imports torch until a command runs."""
