"""Is the refined network smaller and faster than the dense one, and by how much?"""
