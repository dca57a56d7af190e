"""Progress of a study for people: what is done, what runs, what failed, and how much time is left."""
