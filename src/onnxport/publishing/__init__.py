"""Write beside the destination, and rename into place what is whole."""
