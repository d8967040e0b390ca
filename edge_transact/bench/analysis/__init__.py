"""From records to results, comparisons and pages."""
