"""What each command does; `r2tuning_cli` reads their arguments."""
