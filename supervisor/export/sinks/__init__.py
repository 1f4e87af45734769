"""Where events go, and what each place says of having them."""
