"""Cards of what is published on the Hub: templates, facts, and how a card and a repository there are brought up to date."""
