"""How is a network trained between its cycles?"""
