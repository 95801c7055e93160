"""Reports for people and programs: the live view, the ranked table, the recommendation, the JSON document."""
