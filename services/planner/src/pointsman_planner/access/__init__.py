# SPDX-License-Identifier: Apache-2.0
"""Who may ask a planner for what: certificates and tokens, rules and reviews. See docs/security.md."""
