"""Families of networks of this package: everything that the rest asks of one, in one class each (`m2mkd.config.family`)."""
