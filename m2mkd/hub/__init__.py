"""Students on the Hugging Face hub: the layout of a repository, and the way there and back."""
