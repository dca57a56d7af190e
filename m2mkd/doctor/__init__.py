"""``m2mkd doctor``: whether this machine, or the image that this is, can run the suite, and what to do where it cannot."""
