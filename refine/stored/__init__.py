"""How is a network stored in a file, with what it takes, and how does it come back?"""
