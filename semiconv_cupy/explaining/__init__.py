"""How `explain` finds the steps of a call: what each kind of call would run, without running it."""
