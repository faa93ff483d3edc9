"""``rsws check``: what loses messages, and whether all of it works. Each check is a function that returns findings."""
