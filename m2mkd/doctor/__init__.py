"""``m2mkd doctor``: checks that this machine or image can run the suite, with a fix for each fault."""
