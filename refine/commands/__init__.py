"""What can the command ``refine`` do besides handing over to the others?"""
