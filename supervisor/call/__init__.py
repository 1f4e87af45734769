"""What a call is, what happens to it, and how it ends. Pure: no I/O and no clock."""
