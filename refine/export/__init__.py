"""Which files does a deployment need from a run, and how small can its network become?"""
