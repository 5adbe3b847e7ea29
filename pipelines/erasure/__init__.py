"""What it takes to forget a user: who was forgotten, what belongs to a user, and a search for what is left."""
