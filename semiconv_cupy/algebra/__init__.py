"""What a semifield is: the three kinds of them, and the names of the ready-made ones."""
