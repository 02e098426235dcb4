"""Which weights live, and what keeps the others at zero?"""
