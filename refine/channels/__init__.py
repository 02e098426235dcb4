"""Which whole channels leave the network, and what leaves with them?"""
