"""What the commands do that belong to no other folder; `r2tuning_cli` holds their arguments."""
