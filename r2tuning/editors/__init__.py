"""Answers in the formats of video editors, players and spreadsheets."""
