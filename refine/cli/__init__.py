"""What does refine-run do with what was typed, and refine-restore?"""
