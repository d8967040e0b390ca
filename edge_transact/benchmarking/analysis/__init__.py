"""From records to results, comparisons, tables, figures and the report."""
