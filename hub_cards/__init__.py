"""Templates of the cards on the Hub and the facts in them; installed as the package `r2tuning.hub_cards`."""
