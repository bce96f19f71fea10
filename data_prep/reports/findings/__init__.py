"""Findings in a report's text: sections, mentions, assertion, coded concepts."""
