"""Where does a graph begin to differ from its source?"""
