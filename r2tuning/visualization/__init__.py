"""Figures of answers (`timeline`), and of how a model arrives at them (`explain`)."""
