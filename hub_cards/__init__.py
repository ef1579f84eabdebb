"""Templates and facts of the cards on the Hub; in an installed package this folder is `r2tuning.hub_cards`."""
