"""What is different between two folders or two graphs?"""
