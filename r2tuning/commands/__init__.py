"""The commands that belong to no other folder; `r2tuning_cli` holds their arguments."""
