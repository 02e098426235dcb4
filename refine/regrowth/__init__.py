"""Which cut weights live again, how many of each tensor, and with which values?"""
