"""What people read: the live view, the ranked table, the recommendation, the JSON document."""
