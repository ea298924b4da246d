"""Compare two runners, judge the differences by a policy, and report both."""
