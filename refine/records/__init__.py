"""What does a run leave on disk?"""
