"""Many conversions at once: jobs, processes of their own, records, and the page of results."""
